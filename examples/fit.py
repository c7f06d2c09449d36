"""BYOL in a Keras script: encoder, model, compile, fit, export; minutes on the bundled images.

python examples/fit.py --epochs=5
"""

import argparse
import pathlib

import byol_tf
from byol_tf.configs import cifar10_demo
from byol_tf.training.callbacks.collapse import CollapseMonitor

IMAGES = pathlib.Path(__file__).parent / "images" / "train"


def main() -> None:
    """Trains and exports an encoder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--output", default="exported/1")
    args = parser.parse_args()

    # Batch and image size, the two view distributions, the seed.
    config = cifar10_demo.get_config()
    source = byol_tf.data.open_source(str(IMAGES))
    steps_per_epoch = source.num_examples // config.batch_size
    total_steps = args.epochs * steps_per_epoch

    encoder = byol_tf.networks.resnet(depth=18, width=0.25, image_size=32, stem="small")
    model = byol_tf.BYOL(encoder, total_steps=total_steps, base_ema=0.98, hidden_size=1024)
    learning_rate = byol_tf.schedules.WarmupCosine(2.0, total_steps // 10, total_steps)
    model.compile(optimizer=byol_tf.optimizers.LARS(learning_rate))
    views = byol_tf.data.two_view_dataset(source, config)
    model.fit(
        views,
        epochs=args.epochs,
        steps_per_epoch=steps_per_epoch,
        callbacks=[CollapseMonitor()],
    )
    preprocessing = byol_tf.pretrain.preprocessing_from_config(config)
    byol_tf.export.save_encoder(model.encoder, args.output, preprocessing=preprocessing)
    print(f"The encoder is in {args.output}")


if __name__ == "__main__":
    main()

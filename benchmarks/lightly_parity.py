"""Checks that lightly's recipe and `cifar10:lightly` train the same thing, step by step.

    python benchmarks/lightly_parity.py --train_dir=cifar10/train \\
        --torch_python=torch-env/bin/python

Both start from lightly's weights and see the same views, made by lightly, in float32. Printed are
the numbers of parameters, both schedules, the loss of each step and how far the weights are apart
afterwards, as a fraction of how far they came.

Three known differences are taken away, so that nothing else hides behind them: lightly's heads end
with a bias, ours have theirs before the BatchNorm, where it does nothing (here lightly's stays 0);
lightly decays biases and normalisation parameters (here it does not); its rate falls by epochs.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = pathlib.Path(__file__).resolve().parents[1]
WIDTH, EPOCHS, HEADS = 0.25, 200, ("projection_head", "prediction_head")


def torch_side(train_dir: str, folder: pathlib.Path, steps: int, batch_size: int) -> None:
    """Trains lightly's model and writes views, losses and weights."""
    import lightly_byol
    import torch

    trainer = lightly_byol.Trainer(WIDTH, EPOCHS, batch_size, "float32", seed=0)
    model = trainer.model
    for head in (model.projection_head, model.prediction_head, model.projection_head_momentum):
        torch.nn.init.zeros_(head.layers[-1].bias).requires_grad_(False)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    (settings,) = trainer.optimizer.param_groups
    trainer.optimizer = torch.optim.SGD(
        [
            {"params": [weight for weight in trained if weight.ndim > 1]},
            {"params": [weight for weight in trained if weight.ndim <= 1], "weight_decay": 0},
        ],
        **{name: settings[name] for name in ("lr", "momentum", "weight_decay")},
    )
    lightly_byol.save(model.state_dict(), folder / "init.pth")

    np.savez(
        folder / "init.npz", **{name: part.numpy() for name, part in model.state_dict().items()}
    )
    dataset = lightly_byol.views(train_dir)
    batches = iter(lightly_byol.batches(dataset, batch_size, workers=0, seed=0, epoch=0))
    pairs = [next(batches)[0] for _ in range(steps)]
    losses = [trainer.step(*pair) for pair in pairs]
    lightly_byol.save(model.state_dict(), folder / "after.pth")
    rates = []
    for _ in range(EPOCHS):
        rates.append(trainer.schedule.get_last_lr()[0])
        trainer.schedule.step()
    sizes = [
        sum(weight.numel() for weight in getattr(model, part).parameters())
        for part in ("backbone", *HEADS)
    ]
    views = np.stack([torch.stack(pair).permute(0, 1, 3, 4, 2).numpy() for pair in pairs])
    np.savez(folder / "run.npz", views=views, losses=losses, rates=rates, sizes=sizes)


def set_head(head, state: dict[str, np.ndarray], name: str) -> None:
    """Sets a projector or predictor of ours to lightly's weights."""
    hidden, norm, _, output = head.layers
    hidden.set_weights([state[f"{name}.layers.0.weight"].T, np.zeros(hidden.units, np.float32)])
    parameters = ("weight", "bias", "running_mean", "running_var")
    norm.set_weights([state[f"{name}.layers.1.{parameter}"] for parameter in parameters])
    output.set_weights([state[f"{name}.layers.3.weight"].T])


def our_side(folder: pathlib.Path, batch_size: int) -> None:
    """Trains our model on the same views and prints the comparison."""
    import tensorflow as tf

    from byol_tf import build, weights
    from byol_tf.configs import cifar10

    run, state = np.load(folder / "run.npz"), np.load(folder / "init.npz")
    config = cifar10.get_config("lightly")
    config.update(batch_size=batch_size, precision="float32", online_classifier=False)
    config.encoder.width = WIDTH
    start = weights.read(str(folder / "init.pth"))
    start.check_same_network(config.encoder.to_dict())
    steps_per_epoch = 390
    model = build.build_model(
        config, steps_per_epoch, None, tf.distribute.get_strategy(), start.assign_to
    )
    for head, name in zip((model.projector, model.predictor), HEADS, strict=True):
        set_head(head, state, name)
    model.target_projector.set_weights(model.projector.get_weights())

    for network, size in zip(model.trained, run["sizes"], strict=True):
        ours = sum(int(np.prod(weight.shape)) for weight in network.trainable_weights)
        print(f"parameters of {network.name}: lightly {size}, byol_tf {ours} ({ours - size:+d})")
    schedule = model.optimizer._learning_rate
    print("rate at epoch: lightly, byol_tf x 4 (the loss is 4 times lightly's)")
    for epoch in (0, 10, 100, 190, 199):
        first, last = (
            4 * float(schedule((epoch + fraction) * steps_per_epoch)) for fraction in (0, 1)
        )
        print(f"  {epoch:3d}: {run['rates'][epoch]:.5f}, {first:.5f} to {last:.5f}")

    step = tf.function(model.train_step)
    print("loss of step: lightly, byol_tf / 4 - 1")
    previous = 0.0
    for number, ((view_1, view_2), theirs) in enumerate(
        zip(run["views"], run["losses"], strict=True), start=1
    ):
        mean = float(step(((tf.constant(view_1), tf.constant(view_2)),))["loss"])
        loss = mean * number - previous  # The log is the mean since the start.
        previous += loss
        print(f"  {number}: {theirs:.6f}, {loss / 4 - 1:.6f}")
    reached = weights.read(str(folder / "after.pth")).layers
    print("distance of the weights, as a fraction of the way they went:")
    for name in ("stem_conv", "c2_block1_conv1", "c4_block2_conv2", "c5_block2_bn2"):
        kernel = model.encoder.get_layer(name).get_weights()[0]
        way = np.linalg.norm(reached[name][0] - start.layers[name][0])
        print(f"  {name}: {np.linalg.norm(kernel - reached[name][0]) / way:.4f}")


def main() -> None:
    """Runs both sides."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train_dir", required=True, help="images in class folders")
    parser.add_argument("--torch_python", default=sys.executable, help="Python with lightly")
    parser.add_argument("--torch_path", default="", help="PYTHONPATH of that Python")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        torch_side(args.train_dir, pathlib.Path(args.serve), args.steps, args.batch_size)
        return
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        command = [args.torch_python, __file__, f"--serve={folder}", *sys.argv[1:]]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": args.torch_path})
        our_side(pathlib.Path(folder), args.batch_size)


if __name__ == "__main__":
    main()

"""byol-import: makes an encoder of ours of other people's weights, without any training.

    byol-import pretrain_res50x1.pkl --output=imported/res50/1
    byol-import resnet18.pth --output=imported/resnet18/1

FILE is DeepMind's .pkl, PyTorch's .safetensors, .pth, .pt or .ckpt of torchvision, lightly or
solo-learn, a .keras file with an encoder, or a run of byol-pretrain. The network is found from the
names and shapes in it. The result is a SavedModel with the preprocessing of the weights' source, as
byol-export writes it: byol-serve serves it, byol-evaluate --saved_model evaluates and fine-tunes
it, and --config.encoder.weights starts a training from it. docs/weights.md says what was proved.
"""

from absl import flags, logging

from byol_tf.cli import import_tensorflow, run_main, warn_of_version
from byol_tf.errors import UserError

_FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    """Runs the command; see `--help`."""
    logging.set_verbosity(logging.WARNING)  # TensorFlow logs every weight several times.
    import_tensorflow()
    from byol_tf import export, weights
    from byol_tf.build import preprocessing_from_config
    from byol_tf.weights import imported

    found = weights.read(argv[1])
    encoder, config = imported.build(
        found,
        image_size=_FLAGS.image_size,
        crop_fraction=_FLAGS.crop_fraction,
        mean=_numbers("mean"),
        std=_numbers("std"),
        stem=_FLAGS.stem,
    )
    warn_of_version(_FLAGS.output)
    preprocessing = preprocessing_from_config(config)
    export.save_encoder(
        encoder,
        _FLAGS.output,
        preprocessing=preprocessing,
        metadata={"weights": found.describe(), "config": config.to_dict()},
    )
    print(
        f"{encoder.name} of {found.source}: images of {preprocessing.image_size} pixels, centre "
        f"crop {preprocessing.crop_fraction:g}, {preprocessing.resize}. The encoder is in "
        f"{_FLAGS.output}."
    )


def _numbers(name: str) -> tuple[float, ...] | None:
    values = _FLAGS[name].value
    try:
        return None if values is None else tuple(map(float, values))
    except ValueError as error:
        raise UserError(
            f"--{name} must be numbers, one for each channel, such as 0.485,0.456,0.406."
        ) from error


def run() -> None:
    """Runs the console script."""
    _define_flags()
    run_main(main, positional="FILE")


def _define_flags() -> None:
    flags.DEFINE_string(
        "output", None, "Folder of the new SavedModel, MODEL/VERSION.", required=True
    )
    flags.DEFINE_integer(
        "image_size",
        None,
        "Side of the network's square input, in pixels; by default that of the weights' source: "
        "224, or 32 for the small stem.",
        lower_bound=1,
    )
    flags.DEFINE_float(
        "crop_fraction",
        None,
        "Side of the centre crop as a fraction of the shorter side; by default the source's: "
        "0.875, or 1 for the small stem. torchvision's weights of the name IMAGENET1K_V2 are "
        "evaluated with 0.9655, which is 224 of 232.",
    )
    flags.DEFINE_list(
        "mean", None, "Mean of each channel (R, G, B) in [0, 1]; by default the source's."
    )
    flags.DEFINE_list("std", None, "Standard deviation of R, G, B; by default the source's.")
    flags.DEFINE_enum(
        "stem",
        None,
        ("small", "lightly", "solo-learn"),
        "What a 3x3 stem has that its weights do not show: a ReLU and a border of one pixel "
        "(small), no ReLU (a Sequential of lightly's ResNetGenerator), a border of two pixels "
        "(solo-learn for CIFAR); by default from the names in the file.",
    )


if __name__ == "__main__":
    run()

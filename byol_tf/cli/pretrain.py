"""byol-pretrain: a folder of images in, a pretrained encoder's run folder out. The same command again resumes.

    byol-pretrain --config=cifar10 --data_dir=photos/ --run_dir=runs/photos
    byol-pretrain --config=imagenet:300 --config.batch_size=1024 --data_dir=imagenet/train --run_dir=runs/in300
"""

import importlib.resources
import sys

from absl import flags
from ml_collections import config_flags

from byol_tf.cli import run_main
from byol_tf.errors import UserError

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    help_string="A recipe of byol_tf/configs (imagenet, cifar10, cifar10_demo), optionally with an argument "
    "(imagenet:300, cifar10:smoke), or the path of a Python file with get_config. Any field can be "
    "overridden: --config.epochs=50 --config.encoder.depth=34. The defaults are the paper's.",
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "The images: a folder (JPEG, PNG, BMP, GIF; class subfolders are labels, which training only reports on), "
    "a folder or glob of TFRecords of tf.Example, or tfds:NAME[:SPLIT].",
    required=True,
)
_RUN_DIR = flags.DEFINE_string(
    "run_dir",
    None,
    "Where checkpoints, TensorBoard logs and the config go. A run found there with the same config is "
    "continued, one with another config refused.",
    required=True,
)
_STRATEGY = flags.DEFINE_enum(
    "strategy",
    "auto",
    ["default", "mirrored", "multi_worker", "tpu", "auto"],
    "How to distribute: one device, all local GPUs, the workers of TF_CONFIG, a TPU, or what is found.",
)


def main(argv: list[str]) -> None:
    """Runs the command; see `--help`."""
    del argv
    config = _config()  # Before TensorFlow is imported.
    from byol_tf.pretrain import pretrain

    pretrain(config, _DATA_DIR.value, _RUN_DIR.value, _STRATEGY.value)
    print(f"The pretrained run is in {_RUN_DIR.value}; export its encoder with byol-export --run_dir={_RUN_DIR.value}")


def _config():
    recipes = "a recipe (imagenet, cifar10, cifar10_demo) or a Python file with get_config"
    if _CONFIG.value is None:
        raise UserError(f"--config is missing; give {recipes}.")
    try:
        return _CONFIG.value.copy_and_resolve_references()
    except OSError as error:  # ml_collections' way to say, late, that it found no such file.
        given = config_flags.get_config_filename(flags.FLAGS["config"])
        raise UserError(f"--config={given} is no recipe and no file; give {recipes}.") from error


def run() -> None:
    """Console entry point."""
    sys.argv = [_with_config_path(argument) for argument in sys.argv]
    run_main(main)


def _with_config_path(argument: str) -> str:
    """`--config=NAME[:ARG]` with NAME a recipe of this package → its file's path, which config_flags wants."""
    flag, _, value = argument.partition("=")
    name, colon, arg = value.partition(":")
    recipe = importlib.resources.files("byol_tf.configs") / f"{name}.py"
    if flag not in ("--config", "-config") or not name.isidentifier() or not recipe.is_file():
        return argument
    return f"{flag}={recipe}{colon}{arg}"


if __name__ == "__main__":
    run()

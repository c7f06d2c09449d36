"""byol-pretrain: trains an encoder on a folder of images; the same command again resumes.

    byol-pretrain --config=cifar10 --data_dir=photos/ --run_dir=runs/photos
    byol-pretrain --config=imagenet:300 --config.batch_size=1024 --data_dir=imagenet/train \\
        --run_dir=runs/in300
"""

import sys

from absl import flags

from byol_tf.choices import STRATEGIES
from byol_tf.cli import import_tensorflow, recipe, run_main

_CONFIG = recipe.define_config()
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Images: a folder (class subfolders are labels, used only in reports), a "
    "folder or glob of TFRecords of tf.Example, or tfds:NAME[:SPLIT].",
    required=True,
)
_RUN_DIR = flags.DEFINE_string(
    "run_dir",
    None,
    "Folder for checkpoints, TensorBoard logs and the config. A run that is already there is "
    "continued if its config is the same, and refused otherwise.",
    required=True,
)
_STRATEGY = flags.DEFINE_enum(
    "strategy",
    "auto",
    STRATEGIES,
    "Devices to train on: one device, all local GPUs, the hosts of a cluster, a TPU, or "
    "whatever is found.",
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    False,
    "Say what would be read and trained, how long it would take and where it would go; write "
    "nothing.",
)


def main(argv: list[str]) -> None:
    """Runs the command; see `--help`."""
    del argv
    config = recipe.resolve_config(_CONFIG)  # Before TensorFlow is imported.
    import_tensorflow()
    if _DRY_RUN.value:
        from byol_tf.training import dry_run

        print(*dry_run.describe(config, _DATA_DIR.value, _STRATEGY.value), sep="\n")
        print(f"The run would be in {_RUN_DIR.value}. Nothing was written.")
        return
    from byol_tf.training.pretrain import pretrain

    pretrain(config, _DATA_DIR.value, _RUN_DIR.value, _STRATEGY.value)
    print(
        f"The pretrained run is in {_RUN_DIR.value}; export its encoder with "
        f"byol-export --run_dir={_RUN_DIR.value}"
    )


def run() -> None:
    """Runs the console script."""
    sys.argv = recipe.with_config_paths(sys.argv)
    run_main(main)


if __name__ == "__main__":
    run()

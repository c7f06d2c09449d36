"""byol-pipeline: from a folder of images to a pushed, blessed encoder, on this machine.

    byol-pipeline --config=cifar10 --data_dir=photos/ --pipeline_root=pipeline/ \\
        --serving_model_dir=serving/

The same command again runs only what has changed or was not finished. Arguments after a bare -- go
to Beam: byol-pipeline ... -- --runner=FlinkRunner --flink_master=HOST:8081
"""

import os
import sys

from absl import flags, logging

from byol_tf import locks
from byol_tf.cli import recipe, run_main
from pipelines.runners import console, finished_run, flag_settings

_FLAGS = flags.FLAGS


def define() -> None:
    """Defines the flags of every runner, and that of this one."""
    flag_settings.define()
    flags.DEFINE_bool(
        "dry_run",
        False,
        "Say what would be read and trained, how long training would take and where results would "
        "go; write nothing.",
    )


def main(argv: list[str]) -> None:
    """Runs the command; see `--help`."""
    flag_settings.require_tfx()
    config = flag_settings.resolved_config()  # Before TensorFlow is imported.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # Components share the process.
    # Given Beam's options, TFX parses sys.argv again, and would fail on --config.
    del sys.argv[1:]
    if _FLAGS.dry_run:
        with console.quiet():
            folder = flag_settings.data_folder()
            settings = flag_settings.from_flags(config, argv[1:], folder)
            from pipelines.runners import dry_run

            lines = dry_run.describe(settings, folder)
        print(*lines, sep="\n")
        return
    # One run at a time in a root, for SQLite and for the clean-up of killed runs.
    root = _FLAGS.pipeline_root
    refusal = (
        f"another byol-pipeline is running in '{root}'; wait for it, or give another "
        "--pipeline_root."
    )
    with console.log_to(root), locks.exclusive(root, refusal):
        folder = flag_settings.data_folder()
        logging.info("%s: %s", _FLAGS.data_dir, folder.found)
        settings = flag_settings.from_flags(config, argv[1:], folder)
        printed = finished_run.recall(settings)
        if printed is None:
            from byol_tf import build
            from pipelines.runners import beam_engine, local_run

            beam_engine.check(settings.beam_args)
            # An encoder that cannot be built fails here, and not after the images have been read.
            build.build_encoder(config)
            printed = local_run.run(settings)
    print(printed)


def run() -> None:
    """Console entry point."""
    sys.argv = recipe.with_config_paths(sys.argv)
    define()
    run_main(main, passes_on="Beam")


if __name__ == "__main__":
    run()

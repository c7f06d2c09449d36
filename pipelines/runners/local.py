"""byol-pipeline: from a folder of images to a pushed, blessed encoder, on this machine.

    byol-pipeline --config=cifar10 --data_dir=photos/ --pipeline_root=pipeline/ \\
        --serving_model_dir=serving/

The same command again runs only what has changed or was not finished. Arguments after a bare -- go
to Beam: byol-pipeline ... -- --runner=FlinkRunner --flink_master=HOST:8081
"""

import contextlib
import fcntl
import logging as std_logging
import os
import sys
import warnings
from collections.abc import Iterator

from absl import flags, logging

from byol_tf.cli import recipe, run_main
from byol_tf.errors import UserError
from pipelines.runners import flag_settings

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
    config = flag_settings.resolved_config()  # Before TensorFlow is imported.
    warnings.filterwarnings("ignore", message="grpcio <", category=FutureWarning)  # google.auth's.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # Components share the process.
    # Given Beam's options, TFX parses sys.argv again, and would fail on --config.
    del sys.argv[1:]
    if _FLAGS.dry_run:
        folder = flag_settings.data_folder()
        settings = flag_settings.from_flags(config, argv[1:], folder)
        from pipelines.runners import dry_run

        print(*dry_run.describe(settings, folder), sep="\n")
        return
    with _log_to(_FLAGS.pipeline_root), _locked(_FLAGS.pipeline_root):
        folder = flag_settings.data_folder()
        logging.info("%s: %s", _FLAGS.data_dir, folder.found)
        settings = flag_settings.from_flags(config, argv[1:], folder)
        from pipelines.runners import local_run

        sentence = local_run.run(settings)
    print(sentence)


def run() -> None:
    """Console entry point."""
    sys.argv = recipe.with_config_paths(sys.argv)
    define()
    run_main(main, passes_on="Beam")


@contextlib.contextmanager
def _log_to(pipeline_root: str) -> Iterator[None]:
    """Logs everything to pipeline.log, and only part of TFX's messages to the terminal."""
    try:
        os.makedirs(pipeline_root, exist_ok=True)
        handler = std_logging.FileHandler(os.path.join(pipeline_root, "pipeline.log"))
    except OSError as error:
        raise UserError(
            f"--pipeline_root '{pipeline_root}' cannot be written ({error.strerror}); choose "
            "another folder."
        ) from error
    handler.setFormatter(std_logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    std_logging.raiseExceptions = False  # A full disk is reported once, not per line of the log.
    terminal = logging.get_absl_handler()
    terminal.addFilter(_for_the_terminal)
    std_logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        std_logging.getLogger().removeHandler(handler)
        terminal.removeFilter(_for_the_terminal)
        handler.close()


def _for_the_terminal(record: std_logging.LogRecord) -> bool:
    """Whether a message is ours, or names the running component; errors are raised, not logged."""
    ours = any(f"{os.sep}{name}{os.sep}" in record.pathname for name in ("byol_tf", "pipelines"))
    progress = record.module == "local_dag_runner" and "is running" in str(record.msg)
    return ours or progress


@contextlib.contextmanager
def _locked(pipeline_root: str) -> Iterator[None]:
    """Allows one run at a time in a root, for SQLite and for the clean-up of killed runs."""
    with open(os.path.join(pipeline_root, ".lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another byol-pipeline is running in '{pipeline_root}'; wait for it, or give "
                "another --pipeline_root."
            ) from error
        yield


if __name__ == "__main__":
    run()

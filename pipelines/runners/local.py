"""byol-pipeline: from a folder of images to a pushed, blessed encoder, on this machine.

    byol-pipeline --config=cifar10 --data_dir=photos/ --pipeline_root=pipeline/ \\
        --serving_model_dir=serving/

The same command again does only what has changed or was not finished. What follows a bare -- goes
to Beam: byol-pipeline ... -- --runner=FlinkRunner --flink_master=HOST:8081
"""

import contextlib
import fcntl
import logging as std_logging
import os
import sys
import warnings

from absl import flags, logging

from byol_tf.cli import recipe, run_main
from byol_tf.errors import UserError
from pipelines.runners import flag_settings

_FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    """Runs the command; see `--help`."""
    config = flag_settings.resolved_config()  # Before TensorFlow is imported.
    warnings.filterwarnings("ignore", message="grpcio <", category=FutureWarning)  # google.auth's.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # Components share the process.
    del sys.argv[1:]  # With Beam's options, TFX parses it again, which --config does not bear.
    with _log_to(_FLAGS.pipeline_root), _locked(_FLAGS.pipeline_root):
        settings = flag_settings.from_flags(config, argv[1:])
        from pipelines.runners import local_run

        sentence = local_run.run(settings)
    print(sentence)


def run() -> None:
    """Console entry point."""
    sys.argv = recipe.with_config_paths(sys.argv)
    flag_settings.define()
    run_main(main, passes_on="Beam")


@contextlib.contextmanager
def _log_to(pipeline_root: str):
    """Everything into a file; of TFX's own chatter, little on the terminal."""
    try:
        os.makedirs(pipeline_root, exist_ok=True)
        handler = std_logging.FileHandler(os.path.join(pipeline_root, "pipeline.log"))
    except OSError as error:
        raise UserError(
            f"the --pipeline_root '{pipeline_root}' cannot be written ({error.strerror}); choose "
            "another folder."
        ) from error
    handler.setFormatter(std_logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    std_logging.raiseExceptions = False  # A full disk is told once, not for each line of the log.
    terminal = logging.get_absl_handler()
    terminal.addFilter(_for_the_terminal)
    std_logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        std_logging.getLogger().removeHandler(handler)
        terminal.removeFilter(_for_the_terminal)
        handler.close()


def _for_the_terminal(record) -> bool:
    """Our own words, and which component is at work; errors are raised, and end as a sentence."""
    ours = any(f"{os.sep}{name}{os.sep}" in record.pathname for name in ("byol_tf", "pipelines"))
    progress = record.module == "local_dag_runner" and "is running" in str(record.msg)
    return ours or progress


@contextlib.contextmanager
def _locked(pipeline_root: str):
    """One run at a time in a root: SQLite and the clean-up of killed runs both need that."""
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

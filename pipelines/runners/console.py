"""What a run shows on the terminal: our messages; pipeline.log gets everything.

TensorFlow's C++ code and the libraries below TFX write to file descriptor 2, past Python's logging,
so that descriptor is the log while the pipeline runs, and Python's messages keep the terminal.
"""

import contextlib
import logging as std_logging
import os
import sys
from collections.abc import Iterator

from absl import logging

import byol_tf
import pipelines
from byol_tf.errors import UserError

# Their full paths: a checkout, which may hold the environment, is often in a folder `byol_tf`.
_OURS = tuple(
    os.path.join(folder, "") for package in (byol_tf, pipelines) for folder in package.__path__
)


@contextlib.contextmanager
def log_to(pipeline_root: str) -> Iterator[None]:
    """Logs everything to pipeline.log in the folder, which is created.

    Raises:
        UserError: The folder cannot be written.
    """
    path = os.path.join(pipeline_root, "pipeline.log")
    try:
        os.makedirs(pipeline_root, exist_ok=True)
        handler = std_logging.FileHandler(path)
    except OSError as error:
        raise UserError(
            f"--pipeline_root '{pipeline_root}' cannot be written ({error.strerror}); choose "
            "another folder."
        ) from error
    handler.setFormatter(std_logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    std_logging.raiseExceptions = False  # A full disk is reported once, not per line of the log.
    root = std_logging.getLogger()
    handlers = (handler, _Running())
    with quiet(path):
        for one in handlers:
            root.addHandler(one)
        try:
            yield
        finally:
            for one in handlers:
                root.removeHandler(one)
                one.close()


@contextlib.contextmanager
def quiet(rest: str = os.devnull) -> Iterator[None]:
    """Shows only our messages and what is printed.

    Args:
        rest: Path of a file to which everything else is appended; by default it is dropped.
    """
    handler = logging.get_absl_handler()
    terminal, stderr = os.dup(2), sys.stderr
    stderr.flush()
    with open(rest, "ab") as file:
        os.dup2(file.fileno(), 2)
    with os.fdopen(terminal, "w", buffering=1, errors="backslashreplace") as shown:
        sys.stderr = handler.python_handler.stream = shown
        handler.addFilter(_is_ours)
        std_logging.captureWarnings(True)
        try:
            yield
        finally:
            std_logging.captureWarnings(False)
            handler.removeFilter(_is_ours)
            sys.stderr = handler.python_handler.stream = stderr
            shown.flush()
            os.dup2(terminal, 2)


def _is_ours(record: std_logging.LogRecord) -> bool:
    """Whether a message is ours; errors are raised, not logged."""
    return record.pathname.startswith(_OURS)


class _Running(std_logging.Handler):
    """Names each component that does run. TFX says so of cached ones too, before it looks."""

    def __init__(self):
        super().__init__()
        self._node = ""

    def emit(self, record: std_logging.LogRecord) -> None:
        """Follows the messages of LocalDagRunner and of its launcher."""
        message = record.getMessage()
        if record.module == "local_dag_runner" and message.startswith("Component "):
            self._node = message.split()[1]
        # The last message before the executor is called.
        elif record.module == "launcher" and message.startswith("Going to run a new execution: "):
            logging.info("%s is running", self._node)

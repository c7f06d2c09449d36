"""Atomic file writes, and how a full disk shows."""

import contextlib
import errno
import uuid
from collections.abc import Iterator

import tensorflow as tf


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Yields a temporary path beside `path`; what is written there is renamed to `path` at the end.

    No reader sees half a file. If the body raises, the temporary file is removed and `path` stays
    as it was. Works on every file system that `tf.io.gfile` reads.
    """
    temporary = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        yield temporary
        tf.io.gfile.rename(temporary, path, overwrite=True)
    finally:
        if tf.io.gfile.exists(temporary):
            tf.io.gfile.remove(temporary)


def is_disk_full(error: BaseException) -> bool:
    """Returns whether an error of Python or TensorFlow says that there is no space on the disk."""
    number = getattr(error, "errno", None)
    return number == errno.ENOSPC or "No space left on device" in str(error)


def write_atomically(path: str, content: str | bytes) -> None:
    """Writes `content` to `path`, replacing what is there; no reader sees half of it."""
    mode = "w" if isinstance(content, str) else "wb"
    with replacing(path) as temporary, tf.io.gfile.GFile(temporary, mode) as file:
        file.write(content)

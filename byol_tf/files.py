"""Files that are there whole or not at all."""

import os

import tensorflow as tf


def write_atomically(path: str, text: str) -> None:
    """Writes a file under a temporary name, then renames it, so that no reader sees half of it."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with tf.io.gfile.GFile(temporary, "w") as file:
        file.write(text)
    tf.io.gfile.rename(temporary, path, overwrite=True)

"""Sources of encoded images: one module for each kind, and `open_source`."""

import os

import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.sources.folder import IMAGE_EXTENSIONS, FolderSource
from byol_tf.sources.source import Shard, Source
from byol_tf.sources.tfds import TFDSSource
from byol_tf.sources.tfrecord import TFRecordSource

__all__ = ["FolderSource", "Shard", "Source", "TFDSSource", "TFRecordSource", "open_source"]


def open_source(name: str) -> Source:
    """Opens a set of images by name.

    Args:
        name: Folder of images (with or without class subfolders), folder of TFRecords (files with
            `tfrecord` in their name), TFRecord file or glob of such files, or `tfds:NAME[:SPLIT]`
            (split `train` by default).

    Raises:
        UserError: The set does not exist, cannot be read, or holds no images.
    """
    if name.startswith("tfds:"):
        return TFDSSource(name)
    if tf.io.gfile.isdir(name):
        records = tf.io.gfile.glob(os.path.join(name, "*tfrecord*"))
        return TFRecordSource(name, records) if records else FolderSource(name)
    files = tf.io.gfile.glob(name)
    if not files:
        raise UserError(
            f"the data '{name}' does not exist; give a folder of images, a glob of TFRecords or "
            "tfds:NAME."
        )
    if any(file.lower().endswith(IMAGE_EXTENSIONS) for file in files):
        raise UserError(f"'{name}' names image files; give the folder that contains them.")
    return TFRecordSource(name, files)

"""A folder of image files, with or without class subfolders."""

import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from byol_tf.errors import UserError
from byol_tf.sources.source import Source
from byol_tf.sources.walk import files_below

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")


class FolderSource(Source):
    """The image files below a folder, whose immediate subfolders, sorted, are the classes.

    A file deeper down belongs to its outermost subfolder. Where some images lie in the folder
    itself the whole set counts as unlabelled. Hidden files and folders are left out, links
    followed. Only the paths are in memory, and a permutation of them.

    Args:
        folder: Path of the folder.
        files: Relative paths of the images to take, in this order; None takes all, sorted.

    Raises:
        UserError: the folder cannot be read or holds no images.
    """

    def __init__(self, folder: str, files: Sequence[str] | None = None):
        paths = _images_below(folder) if files is None else list(files)
        class_names, labels = _classes(folder, paths)
        super().__init__(folder, len(paths), class_names)
        self._paths = tf.constant([os.fsencode(path) for path in paths])
        self._labels = tf.constant(labels, tf.int32)

    def _identity(self):
        paths = [os.fsdecode(path) for path in self._paths.numpy()]
        stats = [os.stat(os.path.join(self.name, path)) for path in paths]
        files = zip(paths, stats, self._labels.numpy().tolist())
        return [(path, stat.st_size, stat.st_mtime_ns, label) for path, stat, label in files]

    def load(self, name, payload, label):
        return tf.io.read_file(payload), label, name

    def _records(self):
        return tf.data.Dataset.range(self.num_examples)

    def _shuffled_epoch(self, epoch):
        # A whole permutation is 8 bytes an image. index_shuffle would need none, but its orders
        # were found to depend on a few bits of the seed only: epochs repeated one another.
        indices = tf.range(self.num_examples, dtype=tf.int64)
        order = tf.random.experimental.stateless_shuffle(indices, epoch.seed)[epoch.skipped :]
        positions = tf.range(epoch.first + epoch.skipped, epoch.first + self.num_examples)
        owned = epoch.shard.owns(positions)
        return tf.data.Dataset.from_tensor_slices((positions[owned], order[owned]))

    def _examples(self, records):
        names = tf.gather(self._paths, records)
        files = tf.strings.join([os.path.join(self.name, ""), names])
        return names, files, tf.gather(self._labels, records)


def _images_below(folder: str) -> list[str]:
    """Returns the relative paths of all images, sorted; raises `UserError` if there are none."""
    paths = sorted(path for path in files_below(folder) if path.lower().endswith(IMAGE_EXTENSIONS))
    if not paths:
        kinds = ", ".join(extension[1:] for extension in IMAGE_EXTENSIONS)
        raise UserError(
            f"the folder '{folder}' holds no images ({kinds}) and no TFRecords; give a folder of "
            "images, with or without class subfolders."
        )
    return paths


def _classes(folder: str, paths: list[str]) -> tuple[tuple[str, ...] | None, np.ndarray]:
    """Class names and labels int `[N]` of relative paths; None and -1 where some have no class."""
    classes = [path.split(os.sep)[0] for path in paths if os.sep in path]
    if len(classes) < len(paths):
        if classes:
            logging.warning(
                "%s: %d images lie beside the class subfolders; using the set without labels.",
                folder,
                len(paths) - len(classes),
            )
        return None, np.full(len(paths), -1)
    class_names, labels = np.unique(classes, return_inverse=True)
    return tuple(class_names.tolist()), labels

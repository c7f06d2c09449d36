"""A folder of image files, with or without class subfolders."""

import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from byol_tf.errors import UserError
from byol_tf.images import file_formats
from byol_tf.sources.source import Shard, Source, shuffled_indices
from byol_tf.sources.unread import Unread
from byol_tf.sources.walk import files_below

IMAGE_EXTENSIONS = file_formats.suffixes()


class FolderSource(Source):
    """The image files below a folder, whose immediate subfolders, sorted, are the classes.

    A file deeper down belongs to its outermost subfolder. If some images lie in the folder itself,
    the whole set counts as unlabelled. Hidden files and folders are left out, links are followed
    (`walk.files_below`). What else is not read is counted in the log. Only the paths and a
    permutation of them are in memory.

    Args:
        folder: Path of the folder.
        files: Relative paths of the images to take, in this order; None takes all, sorted.

    Raises:
        UserError: The folder cannot be read or holds no images.
    """

    def __init__(self, folder: str, files: Sequence[str] | None = None):
        paths = _images_below(folder) if files is None else list(files)
        class_names, labels = _classes(folder, paths)
        super().__init__(folder, len(paths), class_names)
        self._paths = tf.constant([os.fsencode(path) for path in paths])
        self._labels = tf.constant(labels, tf.int32)

    def _identity(self) -> list:
        paths = [os.fsdecode(path) for path in self._paths.numpy()]
        stats = [os.stat(os.path.join(self.name, path)) for path in paths]
        files = zip(paths, stats, self._labels.numpy().tolist(), strict=True)
        return [(path, stat.st_size, stat.st_mtime_ns, label) for path, stat, label in files]

    def load(
        self, name: tf.Tensor, payload: tf.Tensor, label: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Reads the file of one example; see `Source.load`."""
        return tf.io.read_file(payload), label, name

    def _records(self) -> tf.data.Dataset:
        return tf.data.Dataset.range(self.num_examples)

    def _shuffled(
        self, seed: int, shard: Shard, start: int, shuffle_buffer: int
    ) -> tf.data.Dataset:
        return shuffled_indices(self.num_examples, seed, start, shard)

    def _examples(self, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        names = tf.gather(self._paths, records)
        files = tf.strings.join([os.path.join(self.name, ""), names])
        return names, files, tf.gather(self._labels, records)


def _images_below(folder: str) -> list[str]:
    """Returns the relative paths of all images, sorted; raises `UserError` if there are none."""
    unread, paths = Unread(), []
    for path, _ in files_below(folder, unread):
        if path.lower().endswith(IMAGE_EXTENSIONS):
            paths.append(path)
        else:
            unread.other_kind(path)
    for sentence in unread.sentences():
        logging.warning("%s: %s", folder, sentence)
    if not paths:
        kinds = ", ".join(extension[1:] for extension in IMAGE_EXTENSIONS)
        raise UserError(
            f"the folder '{folder}' holds no images ({kinds}) and no TFRecords; give a folder of "
            "images, with or without class subfolders."
        )
    return sorted(paths)


def _classes(folder: str, paths: list[str]) -> tuple[tuple[str, ...] | None, np.ndarray]:
    """Returns class names and labels int `[N]` of relative paths; None and -1 if some lack one."""
    classes = [path.split(os.sep)[0] for path in paths if os.sep in path]
    if len(classes) < len(paths):
        if classes:
            logging.warning(
                "%s: %d images lie beside the class subfolders; the set is used without labels.",
                folder,
                len(paths) - len(classes),
            )
        return None, np.full(len(paths), -1)
    class_names, labels = np.unique(classes, return_inverse=True)
    return tuple(class_names.tolist()), labels

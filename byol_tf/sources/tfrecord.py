"""TFRecord files of tf.Example, such as those that the pipeline's ImageExampleGen writes."""

import tensorflow as tf
from absl import logging

from byol_tf.errors import UserError
from byol_tf.sources.source import Shard, Source, shuffled_stream

# Fixed: AUTOTUNE would make the order of records depend on the machine.
_FILES_AT_ONCE = 8
_RECORDS_PER_TURN = 16


class TFRecordSource(Source):
    """TFRecord files of tf.Example, gzipped if their names end in .gz.

    Features: `image/encoded`, and where known `image/label` (int64 from 0), `image/label_text`,
    `image/key`. If some examples have no label, the whole set counts as unlabelled. Opening reads
    all records once, to count them and to collect the classes. An epoch shuffles the files, then
    their records through a buffer.

    Args:
        name: Name of the source for messages, as the user gave it.
        files: Paths of the files.

    Raises:
        UserError: A file is damaged, or holds something else.
    """

    def __init__(self, name: str, files: list[str]):
        self._files = sorted(files)
        class_texts: dict[int, str] = {}
        num_examples = sum(_scan(file, class_texts) for file in self._files)
        if not num_examples:
            raise UserError(f"the TFRecords '{name}' are empty; give files that hold tf.Examples.")
        labelled = class_texts.pop(-1, None) is None
        if class_texts and not labelled:
            logging.warning("%s: some examples lack image/label; no labels are used.", name)
        class_names = None
        if labelled:
            labels = range(max(class_texts) + 1)
            class_names = tuple(class_texts.get(label) or str(label) for label in labels)
        super().__init__(name, num_examples, class_names)

    def _identity(self) -> list:
        stats = [(file, tf.io.gfile.stat(file)) for file in self._files]
        return [(file, stat.length, stat.mtime_nsec) for file, stat in stats]

    def load(
        self, name: tf.Tensor, payload: tf.Tensor, label: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Parses one tf.Example; see `Source.load`."""
        features = tf.io.parse_single_example(
            payload,
            {
                "image/encoded": tf.io.FixedLenFeature([], tf.string),
                "image/label": tf.io.FixedLenFeature([], tf.int64, -1),
                "image/key": tf.io.FixedLenFeature([], tf.string, ""),
            },
        )
        if self.class_names is not None:
            label = tf.cast(features["image/label"], tf.int32)
        key = features["image/key"]
        return features["image/encoded"], label, tf.where(key == "", name, key)

    def _records(self) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(self._files).flat_map(_numbered_records)

    def _shuffled(
        self, seed: int, shard: Shard, start: int, shuffle_buffer: int
    ) -> tf.data.Dataset:
        def records(epoch_seed):
            files = tf.random.experimental.stateless_shuffle(tf.constant(self._files), epoch_seed)
            return tf.data.Dataset.from_tensor_slices(files).interleave(
                _numbered_records,
                cycle_length=_FILES_AT_ONCE,
                block_length=_RECORDS_PER_TURN,
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )

        return shuffled_stream(records, self.num_examples, seed, shard, start, shuffle_buffer)

    def _examples(
        self, records: tuple[tf.Tensor, tf.Tensor, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        files, numbers, serialized = records
        names = tf.strings.join([files, tf.as_string(numbers)], separator="#")
        return names, serialized, tf.fill(tf.shape(names), -1)


def _numbered_records(file: tf.Tensor) -> tf.data.Dataset:
    """Returns a dataset of (file, number of the record in it, serialized example)."""
    compression = tf.where(tf.strings.regex_full_match(file, r".*\.gz"), "GZIP", "")
    return tf.data.Dataset.zip(
        (
            tf.data.Dataset.from_tensors(file).repeat(),
            tf.data.Dataset.range(tf.int64.max),
            tf.data.TFRecordDataset(file, compression),
        )
    )


def _scan(file: str, class_texts: dict[int, str]) -> int:
    """Counts a file's records and adds the text of each label to `class_texts`.

    An example without a label counts as label -1.
    """
    features = {
        "image/encoded": tf.io.VarLenFeature(tf.string),
        "image/label": tf.io.FixedLenFeature([], tf.int64, -1),
        "image/label_text": tf.io.FixedLenFeature([], tf.string, ""),
    }

    def read_labels(_, numbers, serialized):
        example = tf.io.parse_example(serialized, features)
        have_images = tf.size(example["image/encoded"].values) == tf.size(numbers)
        labels = tf.maximum(example["image/label"], -1)
        return have_images, labels, example["image/label_text"]

    count = 0
    batches = _numbered_records(tf.constant(file)).batch(64).map(read_labels, tf.data.AUTOTUNE)
    try:
        for have_images, labels, texts in batches.as_numpy_iterator():
            if not have_images:
                raise UserError(
                    f"'{file}' has examples without the feature image/encoded; write each image's "
                    "file content there."
                )
            count += len(labels)
            for label, text in set(zip(labels.tolist(), texts.tolist(), strict=True)):
                class_texts[label] = text.decode(errors="replace") or class_texts.get(label, "")
    except (tf.errors.OpError, UnicodeDecodeError) as error:  # Messages may quote raw bytes.
        raise UserError(
            f"'{file}' is not an intact TFRecord file of tf.Examples (bad within the 64 records "
            f"after record {count}); write it again."
        ) from error
    return count

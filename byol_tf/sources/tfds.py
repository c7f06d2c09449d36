"""Data sets prepared with TensorFlow Datasets, by name."""

import os
import re
import types

import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.sources.source import Shard, Source, shuffled_stream

# tfds:NAME[/CONFIG][:VERSION][:SPLIT], such as tfds:cifar10 or tfds:cifar10:3.0.2:train[:90%].
_NAME = re.compile(r"tfds:([\w./-]+(?::\d+\.[\d.*]+)?)(?::(.+))?")


class TFDSSource(Source):
    """A split of a data set that TFDS has prepared on disk; nothing is downloaded.

    The first image feature is the image; the first class label, if any, is the label. The image
    stays encoded until a view is cut. The order of files is fixed, since TFDS shuffles when it
    prepares; an epoch is shuffled by the buffer.

    Args:
        name: `tfds:NAME[/CONFIG][:VERSION][:SPLIT]`; the split is `train` by default.

    Raises:
        UserError: The name, split or feature does not exist, or the data set is not prepared.
    """

    def __init__(self, name: str):
        match = _NAME.fullmatch(name)
        if not match:
            raise UserError(f"'{name}' is not a TFDS name; write tfds:NAME or tfds:NAME:SPLIT.")
        self._split = match[2] or "train"
        tfds = _import_tfds()
        builder = _prepared_builder(tfds, match[1])
        features = builder.info.features
        image = _first(features, tfds.features.Image)
        label = _first(features, tfds.features.ClassLabel)
        if image is None:
            raise UserError(
                f"'{name}' has no image among its features ({', '.join(features)}); choose another."
            )
        try:
            num_examples = builder.info.splits[self._split].num_examples
        except (KeyError, ValueError) as error:
            splits = ", ".join(builder.info.splits)
            raise UserError(f"'{name}' has no such split; choose from {splits}.") from error
        class_names = None if label is None else tuple(features[label].names)
        super().__init__(name, num_examples, class_names)

        def select(number, example):
            class_label = -1 if label is None else example[label]
            return number, example[image], tf.cast(class_label, tf.int32)

        examples = builder.as_dataset(
            split=self._split,
            decoders={image: tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(try_autocache=False, skip_prefetch=True),
        )
        self._dataset = examples.enumerate().map(select)
        self._prepared = builder.info.full_name  # With its config and version.

    def _identity(self) -> list:
        return [self._prepared, self._split, self.num_examples]

    def load(
        self, name: tf.Tensor, payload: tf.Tensor, label: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns the example as it is; see `Source.load`."""
        return payload, label, name

    def _records(self) -> tf.data.Dataset:
        return self._dataset

    def _shuffled(
        self, seed: int, shard: Shard, start: int, shuffle_buffer: int
    ) -> tf.data.Dataset:
        return shuffled_stream(
            lambda _: self._dataset, self.num_examples, seed, shard, start, shuffle_buffer
        )

    def _examples(
        self, records: tuple[tf.Tensor, tf.Tensor, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        numbers, image_bytes, labels = records
        names = tf.strings.join([self._split, tf.as_string(numbers)], separator="#")
        return names, image_bytes, labels


def _first(features, kind: type) -> str | None:
    """Returns the name of the first feature of a kind, or None."""
    return next((name for name, feature in features.items() if isinstance(feature, kind)), None)


def _import_tfds() -> types.ModuleType:
    try:
        import tensorflow_datasets  # An extra, and slow to import.
    except ImportError as error:
        raise UserError(
            "a tfds: name needs TensorFlow Datasets; run pip install 'byol_tf[tfds]'."
        ) from error
    return tensorflow_datasets


def _prepared_builder(tfds: types.ModuleType, name: str):
    """Returns the builder of a data set on disk; never uses the network, not even for metadata."""
    data_dir = os.environ.get("TFDS_DATA_DIR")
    try:
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir)
    except (tfds.core.registered.DatasetNotFoundError, ValueError) as error:
        raise UserError(
            f"the TFDS data set '{name}' is not prepared in {data_dir or '~/tensorflow_datasets'}; "
            f"run `tfds build {name}`, or set TFDS_DATA_DIR to where it is."
        ) from error

"""Some of the examples of another source."""

import numpy as np
import tensorflow as tf

from byol_tf.sources.source import Shard, Source, shuffled_indices


class SubsetSource(Source):
    """The examples of a source at some positions, shuffled as a whole.

    One pass over the source's records, without decoding, collects them. A folder's records take 8
    bytes each; those of TFRecords and TFDS are the encoded images, held in memory (1 % of ImageNet:
    about 1.4 GB).

    Args:
        source: Source of all examples.
        positions: Distinct positions in `source.in_order()`, int `[n]`, at least one; the examples
            keep the order of the source.
    """

    def __init__(self, source: Source, positions: np.ndarray):
        super().__init__(source.name, len(positions), source.class_names)
        self._source = source
        self._positions = np.sort(positions)
        chosen = np.zeros(source.num_examples, bool)
        chosen[positions] = True
        chosen = tf.constant(chosen)
        records = source._records().enumerate().filter(lambda position, _: chosen[position])
        records = records.map(lambda _, record: record).batch(self.num_examples)
        self._columns = records.get_single_element()

    def _identity(self) -> list:
        return [*self._source._identity(), self._positions.tolist()]

    def load(
        self, name: tf.Tensor, payload: tf.Tensor, label: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Loads one example as its own source does."""
        return self._source.load(name, payload, label)

    def _records(self) -> tf.data.Dataset:
        return tf.data.Dataset.range(self.num_examples)

    def _shuffled(
        self, seed: int, shard: Shard, start: int, shuffle_buffer: int
    ) -> tf.data.Dataset:
        return shuffled_indices(self.num_examples, seed, start, shard)

    def _examples(self, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        columns = tf.nest.map_structure(lambda column: tf.gather(column, records), self._columns)
        return self._source._examples(columns)

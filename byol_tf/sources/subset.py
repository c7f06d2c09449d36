"""Some of the examples of another source."""

import numpy as np
import tensorflow as tf

from byol_tf.sources.folder import FolderSource
from byol_tf.sources.source import Source


class SubsetSource(Source):
    """The examples of a source at some positions, shuffled as a whole.

    One pass over the source's records, without decoding, collects them. Of a folder they are 8
    bytes each; of TFRecords and TFDS the encoded images are held in memory (1 % of ImageNet: about
    1.4 GB).

    Args:
        source: the whole.
        positions: int `[n]` in `source.in_order()`, distinct, at least one; the order of the source
            stays.
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

    def _identity(self):
        return [*self._source._identity(), self._positions.tolist()]

    def load(self, name, payload, label):
        return self._source.load(name, payload, label)

    def _records(self):
        return tf.data.Dataset.range(self.num_examples)

    # Here as there records are indices.
    _shuffled_epoch = FolderSource._shuffled_epoch

    def _examples(self, records):
        columns = tf.nest.map_structure(lambda column: tf.gather(column, records), self._columns)
        return self._source._examples(columns)

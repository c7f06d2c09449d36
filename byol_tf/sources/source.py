"""What all sources of images share: examples in order, or shuffled and numbered by position.

Nothing is decoded here. Positions number the shuffled examples of all epochs, 0, 1, 2, ...: epoch e
of N examples is the positions from e N on. Which example stands at a position depends on the seed
alone, so that a run resumes from a step number.
"""

import abc
import dataclasses

import tensorflow as tf

from byol_tf.corrupt import CorruptExamples


@dataclasses.dataclass(frozen=True)
class Shard:
    """The contiguous rows of each global batch that one input pipeline produces.

    Attributes:
        batch_size: of the global batch.
        first: first row.
        size: number of rows.
    """

    batch_size: int
    first: int
    size: int

    def owns(self, position: tf.Tensor) -> tf.Tensor:
        """Whether the example at `position` (scalar) lies in these rows."""
        row = position % self.batch_size
        return (row >= self.first) & (row < self.first + self.size)


class Source(abc.ABC):
    """A set of encoded images.

    Examples are tuples of scalars (name string, payload string, label int32), which `load` turns
    into bytes of an image. Names are for messages; the label is -1 where it is unknown before
    `load`.

    Attributes:
        name: as the user gave it.
        num_examples: N, at least 1.
        class_names: indexed by label, or None unless every example has a label.
        corrupt: the examples found to be corrupt so far.
    """

    def __init__(self, name: str, num_examples: int, class_names: tuple[str, ...] | None):
        self.name = name
        self.num_examples = num_examples
        self.class_names = class_names
        self.corrupt = CorruptExamples(name, num_examples)

    def in_order(self, chunk_size: int, limit: int | None = None) -> tf.data.Dataset:
        """All examples once, or `limit` of them, evenly spaced.

        Returns:
            Dataset of chunks `(index int64, name, payload, label)`, each `[c]`, c <= chunk_size.
        """
        records = self._records().enumerate()
        if limit is not None and limit < self.num_examples:
            records = records.filter(lambda index, _: index * limit % self.num_examples < limit)
        return self._chunks(records, chunk_size, drop_remainder=False)

    def shuffled(
        self, seed: int, shard: Shard, start_step: int, chunk_size: int, shuffle_buffer: int
    ) -> tf.data.Dataset:
        """The shard's examples from the global batch `start_step` on, without end.

        Each epoch holds each example exactly once, in an order of its own, and need not end with a
        batch. To start within an epoch, streams (TFRecord, TFDS) read and drop the records before.
        To shard, each worker goes through all records (of a folder: all indices) and drops what
        others own; nothing dropped is decoded.

        Args:
            seed: of the order.
            shard: which positions to yield.
            start_step: global batches to pass over.
            chunk_size: c.
            shuffle_buffer: records a stream holds in memory to shuffle from; a folder is shuffled
                as a whole.

        Returns:
            Dataset of chunks `(position int64, name, payload, label)`, each `[c]`.
        """
        start = start_step * shard.batch_size
        first_epoch, passed = divmod(start, self.num_examples)

        def one_epoch(epoch):
            # Else the program's seed (tf.random.set_seed) would mix into that of Dataset.shuffle.
            tf.compat.v1.set_random_seed(1)
            order_seed = tf.stack([tf.constant(seed, tf.int64), epoch])
            records = self._shuffled_records(order_seed, shuffle_buffer)
            return records.skip(tf.where(epoch == first_epoch, tf.constant(passed, tf.int64), 0))

        epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
        records = epochs.flat_map(one_epoch).enumerate(start)
        if shard.size < shard.batch_size:
            records = records.filter(lambda position, record: shard.owns(position))
        return self._chunks(records, chunk_size, drop_remainder=True)

    @abc.abstractmethod
    def load(self, name: tf.Tensor, payload: tf.Tensor, label: tf.Tensor) -> tuple:
        """Scalars (image_bytes, label, key) of an example: string, int32, -1 if unknown, string."""

    @abc.abstractmethod
    def _records(self) -> tf.data.Dataset:
        """All records once, in order."""

    @abc.abstractmethod
    def _shuffled_records(self, seed: tf.Tensor, shuffle_buffer: int) -> tf.data.Dataset:
        """All records once, in the order drawn from `seed`, int64 `[2]`."""

    @abc.abstractmethod
    def _examples(self, records) -> tuple:
        """Names, payloads and labels, `[c]`, of a batch of records."""

    def _chunks(self, numbered_records, chunk_size, drop_remainder):
        chunks = numbered_records.batch(chunk_size, drop_remainder=drop_remainder)
        return chunks.map(lambda number, records: (number, *self._examples(records)))


def shuffle_stream(
    records: tf.data.Dataset, seed: tf.Tensor, shuffle_buffer: int
) -> tf.data.Dataset:
    """`records` shuffled through a buffer, in the order drawn from `seed`, int64 `[2]`."""
    scalar_seed = tf.random.stateless_uniform([], seed, minval=None, maxval=None, dtype=tf.int64)
    return records.shuffle(shuffle_buffer, scalar_seed, reshuffle_each_iteration=False)

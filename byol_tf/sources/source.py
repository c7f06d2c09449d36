"""What all sources of images share: examples in order, or shuffled and numbered by position.

Nothing is decoded here. Positions number the shuffled examples of all epochs, 0, 1, 2, ...: epoch e
of N examples is the positions from e N on. Which example stands at a position depends on the seed
alone, so that a run resumes from a step number.
"""

import abc
import dataclasses
import functools
import hashlib
import json

import tensorflow as tf

from byol_tf.sources.corrupt import CorruptExamples


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
        """Whether the example at `position`, int64 of any shape, lies in these rows."""
        row = position % self.batch_size
        return (row >= self.first) & (row < self.first + self.size)


@dataclasses.dataclass(frozen=True)
class Epoch:
    """What a source must know to shuffle one epoch.

    Attributes:
        seed: of its order, int64 `[2]`.
        first: its first position, int64.
        skipped: how many positions to pass over, int64.
        shard: which positions to yield.
        shuffle_buffer: records to hold in memory.
    """

    seed: tf.Tensor
    first: tf.Tensor
    skipped: tf.Tensor
    shard: Shard
    shuffle_buffer: int


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
        batch. What other shards own is dropped before it is decoded. A stream (TFRecord, TFDS)
        must read it all the same, and what lies before the start in its epoch, and sharding costs
        it some 25 µs a record.

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

        def one_epoch(number):
            # Else the program's seed (tf.random.set_seed) would mix into that of Dataset.shuffle.
            tf.compat.v1.set_random_seed(1)
            first = number * self.num_examples
            return self._shuffled_epoch(
                Epoch(
                    seed=tf.stack([tf.constant(seed, tf.int64), number]),
                    first=first,
                    skipped=tf.maximum(start - first, 0),
                    shard=shard,
                    shuffle_buffer=shuffle_buffer,
                )
            )

        epochs = tf.data.Dataset.range(start // self.num_examples, tf.int64.max)
        return self._chunks(epochs.flat_map(one_epoch), chunk_size, drop_remainder=True)

    def fingerprint(self) -> str:
        """32 hex digits that change with the images: what cached results of them are named by."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        # Once: it looks at every file, and each pass over the images asks.
        return hashlib.sha256(json.dumps(self._identity()).encode()).hexdigest()[:32]

    @abc.abstractmethod
    def _identity(self) -> list:
        """What tells this set from others without reading the images: JSON."""

    @abc.abstractmethod
    def load(self, name: tf.Tensor, payload: tf.Tensor, label: tf.Tensor) -> tuple:
        """Scalars (image_bytes, label, key) of an example: string, int32, -1 if unknown, string."""

    @abc.abstractmethod
    def _records(self) -> tf.data.Dataset:
        """All records once, in order."""

    @abc.abstractmethod
    def _shuffled_epoch(self, epoch: Epoch) -> tf.data.Dataset:
        """(position, record) of the records of an epoch that its shard owns."""

    @abc.abstractmethod
    def _examples(self, records) -> tuple:
        """Names, payloads and labels, `[c]`, of a batch of records."""

    def _chunks(self, numbered_records, chunk_size, drop_remainder):
        chunks = numbered_records.batch(chunk_size, drop_remainder=drop_remainder)
        return chunks.map(lambda number, records: (number, *self._examples(records)))


def shuffle_stream(records: tf.data.Dataset, epoch: Epoch) -> tf.data.Dataset:
    """(position, record) of `records`, shuffled through a buffer, that the epoch's shard owns."""
    seed = tf.random.stateless_uniform([], epoch.seed, minval=None, maxval=None, dtype=tf.int64)
    records = records.shuffle(epoch.shuffle_buffer, seed, reshuffle_each_iteration=False)
    numbered = records.enumerate(epoch.first).skip(epoch.skipped)
    if epoch.shard.size == epoch.shard.batch_size:
        return numbered
    return numbered.filter(lambda position, record: epoch.shard.owns(position))

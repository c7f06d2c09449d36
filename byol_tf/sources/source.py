"""The base class of image sources: examples in order, or shuffled and numbered by position.

Nothing is decoded here. Positions number the shuffled examples of all epochs, 0, 1, 2, ...: epoch e
of N examples has the positions from e N on. Which example has a position depends only on the seed,
so a run can resume from a step number.
"""

import abc
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from byol_tf.sources.corrupt import CorruptExamples


@dataclasses.dataclass(frozen=True)
class Shard:
    """The contiguous rows of each global batch that one input pipeline produces.

    Attributes:
        batch_size: Rows of the global batch.
        first: First row of this pipeline.
        size: Number of its rows.
    """

    batch_size: int
    first: int
    size: int

    def owns(self, position: tf.Tensor) -> tf.Tensor:
        """Returns whether the example at `position`, int64 of any shape, lies in these rows."""
        row = position % self.batch_size
        return (row >= self.first) & (row < self.first + self.size)


class Source(abc.ABC):
    """A set of encoded images.

    Examples are tuples of scalars (name string, payload string, label int32), which `load` turns
    into the bytes of an image. Names are for messages; the label is -1 where it is unknown before
    `load`.

    Attributes:
        name: Name as the user gave it.
        num_examples: N, at least 1.
        class_names: Class names by label, or None unless every example has a label.
        corrupt: Examples found to be corrupt so far.
    """

    def __init__(self, name: str, num_examples: int, class_names: tuple[str, ...] | None):
        self.name = name
        self.num_examples = num_examples
        self.class_names = class_names
        self.corrupt = CorruptExamples(name, num_examples)

    def in_order(self, chunk_size: int, limit: int | None = None) -> tf.data.Dataset:
        """Returns all examples once, or `limit` of them, evenly spaced.

        Args:
            chunk_size: Number of examples per chunk.
            limit: If given, at most this many examples.

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
        """Returns the shard's examples from the global batch `start_step` on, without end.

        Each epoch holds each example exactly once, in an order of its own, and need not end with a
        batch. What other shards own is dropped before it is decoded. A stream (TFRecord, TFDS)
        still has to read it, and what lies before the start in its epoch; sharding costs a stream
        about 25 µs per record.

        Args:
            seed: Seed of the order.
            shard: Positions to yield.
            start_step: Number of global batches to skip.
            chunk_size: c, the number of examples per chunk.
            shuffle_buffer: Number of records a stream holds in memory to shuffle from; a folder is
                shuffled as a whole.

        Returns:
            Dataset of chunks `(position int64, name, payload, label)`, each `[c]`.
        """
        records = self._shuffled(seed, shard, start_step * shard.batch_size, shuffle_buffer)
        return self._chunks(records, chunk_size, drop_remainder=True)

    def fingerprint(self) -> str:
        """Returns 32 hex digits that change with the images; cached results are named by them."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        # Cached: it looks at every file, and each pass over the images asks for it.
        return hashlib.sha256(json.dumps(self._identity()).encode()).hexdigest()[:32]

    @abc.abstractmethod
    def _identity(self) -> list:
        """Returns JSON that tells this set from others, without reading the images."""

    @abc.abstractmethod
    def load(
        self, name: tf.Tensor, payload: tf.Tensor, label: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Loads one example.

        Returns:
            Scalars (image_bytes, label, key): string; int32, -1 if unknown; string.
        """

    @abc.abstractmethod
    def _records(self) -> tf.data.Dataset:
        """Returns all records once, in order."""

    @abc.abstractmethod
    def _shuffled(
        self, seed: int, shard: Shard, start: int, shuffle_buffer: int
    ) -> tf.data.Dataset:
        """Returns endless shuffled epochs as (position, record), from position `start` on.

        Only the positions that `shard` owns.
        """

    @abc.abstractmethod
    def _examples(self, records: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns names, payloads and labels, `[c]`, of a batch of records."""

    def _chunks(
        self, numbered_records: tf.data.Dataset, chunk_size: int, drop_remainder: bool
    ) -> tf.data.Dataset:
        chunks = numbered_records.batch(chunk_size, drop_remainder=drop_remainder)
        return chunks.map(lambda number, records: (number, *self._examples(records)))


def shuffled_indices(
    num_examples: int, seed: int, start: int = 0, shard: Shard | None = None
) -> tf.data.Dataset:
    """Returns endless shuffled epochs of the indices 0, ..., N - 1.

    The order of epoch e is drawn from (seed, e); its positions are those from e N on.

    Args:
        num_examples: N.
        seed: Seed of the orders.
        start: First position.
        shard: Positions to yield; None yields all.

    Returns:
        Dataset of (position, index), int64.
    """

    def one_epoch(number):
        indices = tf.range(num_examples, dtype=tf.int64)
        # A whole permutation is 8 bytes per image. index_shuffle would need none, but its orders
        # were found to depend on a few bits of the seed only: epochs repeated one another.
        order = tf.random.experimental.stateless_shuffle(indices, _epoch_seed(seed, number))
        positions = number * num_examples + indices
        wanted = positions >= start
        if shard is not None:
            wanted &= shard.owns(positions)
        return tf.data.Dataset.from_tensor_slices((positions[wanted], order[wanted]))

    return tf.data.Dataset.range(start // num_examples, tf.int64.max).flat_map(one_epoch)


def shuffled_stream(
    records: Callable[[tf.Tensor], tf.data.Dataset],
    num_examples: int,
    seed: int,
    shard: Shard,
    start: int,
    shuffle_buffer: int,
) -> tf.data.Dataset:
    """Returns endless epochs of a stream of records, shuffled through a buffer.

    Args:
        records: Function from an epoch's seed, int64 `[2]`, to its records before the buffer.
        num_examples: N, the number of records per epoch.
        seed: Seed of the orders.
        shard: Positions to yield.
        start: First position.
        shuffle_buffer: Number of records in the buffer.

    Returns:
        Dataset of (position, record).
    """

    def one_epoch(number):
        # Otherwise the program's seed (tf.random.set_seed) would mix into that of Dataset.shuffle.
        tf.compat.v1.set_random_seed(1)
        epoch_seed = _epoch_seed(seed, number)
        buffer_seed = tf.random.stateless_uniform(
            [], epoch_seed, minval=None, maxval=None, dtype=tf.int64
        )
        shuffled = records(epoch_seed).shuffle(
            shuffle_buffer, buffer_seed, reshuffle_each_iteration=False
        )
        first = number * num_examples
        numbered = shuffled.enumerate(first).skip(tf.maximum(start - first, 0))
        if shard.size == shard.batch_size:
            return numbered
        return numbered.filter(lambda position, record: shard.owns(position))

    return tf.data.Dataset.range(start // num_examples, tf.int64.max).flat_map(one_epoch)


def _epoch_seed(seed: int, number: tf.Tensor) -> tf.Tensor:
    """Returns the seed of an epoch's order, int64 `[2]`."""
    return tf.stack([tf.constant(seed, tf.int64), number])

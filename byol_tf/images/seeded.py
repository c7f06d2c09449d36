"""Seeded random draws that are the same eagerly, in tf.data and under XLA."""

from collections.abc import Sequence

import tensorflow as tf


def uniform(shape: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
    """Draws float32 values of 24 bits, uniform in [0, 1), from a seed, int `[2]`.

    The values are made from the bits of a named generator: by default, XLA and the CPU kernels may
    use different generators, and they make different floats from the same bits.
    """
    bits = tf.random.stateless_uniform(
        shape, seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
    )
    return tf.cast(tf.bitwise.right_shift(bits, 8), tf.float32) * 2.0**-24


def uniform_int(draws: tf.Tensor, largest: tf.Tensor) -> tf.Tensor:
    """Maps draws in [0, 1) to integers in [0, largest], int32."""
    values = tf.cast(draws * tf.cast(largest + 1, tf.float32), tf.int32)
    return tf.minimum(values, largest)  # The product may round up to largest + 1.

"""Pillow's bilinear resize in TensorFlow, level by level.

Encoders from PyTorch were trained and evaluated on what Pillow makes of an image. Between two
levels its integer arithmetic decides, and a level of difference in a few pixels is seen in the
embedding: TensorFlow's own antialiased resize differed in 2 % of the pixels of a 320 x 448 image.
"""

from collections.abc import Callable

import tensorflow as tf

_BITS = 22  # Of a weight, in Pillow's Resample.c.

# Function from old pixels int32 `[old, ...]`, the first one of each new pixel `[new]`, and the
# weights from there on `[taps, new]` to the sums int32 `[new, ...]`.
WeightedSums = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]


def resize_shorter_side(
    images: tf.Tensor, size: int, weighted_sums: WeightedSums | None = None
) -> tf.Tensor:
    """Resizes bilinearly with antialiasing, as torchvision's `Resize(size)` does an image of PIL.

    Args:
        images: uint8 `[H, W, C]` or `[B, H, W, C]`.
        size: Shorter side of the result, in pixels; the longer one is truncated.
        weighted_sums: Other operations for the sums than TensorFlow's fastest.

    Returns:
        float32 of whole levels, `[H', W', C]` or `[B, H', W', C]`.
    """
    shape = tf.shape(images)
    height, width = shape[-3], shape[-2]
    shorter = tf.minimum(height, width)
    levels = tf.reshape(tf.cast(images, tf.int32), [-1, height, width, images.shape[-1]])
    # The order of Pillow, but for version 13 with images much higher than wide; each direction ends
    # with whole levels.
    sums = weighted_sums or _sparse_sums
    levels = tf.transpose(levels, [2, 0, 1, 3])
    levels = _resize(levels, size * width // shorter, sums)  # [W', B, H, C]
    levels = tf.transpose(levels, [2, 1, 0, 3])
    levels = _resize(levels, size * height // shorter, sums)  # [H', B, W', C]
    levels = tf.transpose(levels, [1, 0, 2, 3])
    resized = tf.cast(levels, tf.float32)
    return tf.reshape(resized, tf.concat([shape[:-3], tf.shape(levels)[1:]], axis=0))


def _sparse_sums(levels: tf.Tensor, first: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Returns the `WeightedSums` of a sparse matrix, two thirds of what a loop over taps takes."""
    shape, (taps, new_size) = tf.shape(levels), tf.unstack(tf.shape(weights))
    # Past the end the weight is 0, for any pixel.
    columns = tf.minimum(first[:, tf.newaxis] + tf.range(taps), shape[0] - 1)  # [new, taps]
    rows = tf.broadcast_to(tf.range(new_size)[:, tf.newaxis], tf.shape(columns))
    matrix = tf.SparseTensor(
        tf.cast(tf.reshape(tf.stack([rows, columns], axis=-1), [-1, 2]), tf.int64),
        tf.reshape(tf.transpose(weights), [-1]),
        tf.cast(tf.stack([new_size, shape[0]]), tf.int64),
    )
    sums = tf.sparse.sparse_dense_matmul(matrix, tf.reshape(levels, [shape[0], -1]))
    return tf.reshape(sums, tf.concat([[new_size], shape[1:]], axis=0))


def _resize(levels: tf.Tensor, new_size: tf.Tensor, weighted_sums: WeightedSums) -> tf.Tensor:
    """Resizes int32 `[N, ...]` along the first axis to `[new_size, ...]`."""
    sums = weighted_sums(levels, *_weights(tf.shape(levels)[0], new_size))
    return tf.truncatediv(sums + 2 ** (_BITS - 1), 2**_BITS)


def _weights(size: tf.Tensor, new_size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns where each new pixel begins and the weights of the old ones from there on.

    Pillow computes them in float64; here they are fractions of whole numbers, because runtimes that
    exports are converted for have no float64.

    Returns:
        The first old pixel of each new one, int32 `[new_size]`, and weights of 22 bits, int32
        `[taps, new_size]`.
    """
    old, new = (tf.cast(side, tf.int64) for side in (size, new_size))
    reach = tf.maximum(old, new)  # Half the width of the triangle, in old pixels times new_size.
    centers = (2 * tf.range(new) + 1) * old  # In the middle of a new pixel, times 2 new_size.
    first = tf.maximum(centers - 2 * reach + new, 0) // (2 * new)  # [new]
    taps = 2 * ((reach + new - 1) // new) + 1
    columns = first + tf.range(taps)[:, tf.newaxis]  # [taps, new]
    triangle = tf.maximum(2 * reach - tf.abs((2 * columns + 1) * new - centers), 0)
    triangle = tf.where(columns < old, triangle, 0)
    total = tf.reduce_sum(triangle, axis=0)
    rounded = (triangle * 2 ** (_BITS + 1) + total) // (2 * total)
    return tf.cast(first, tf.int32), tf.cast(rounded, tf.int32)

"""The preprocessing of decoded images in operations that every runtime has.

TensorFlow's bicubic kernel, which `Preprocessing` calls, is TensorFlow's own: it rounds the
positions between pixels to 1/1024, and the cubic resize of ONNX does not, which moved embeddings by
more than the tolerance of an export; the sparse matrices of the bilinear one are TensorFlow's, too.
Here the same sums are gathers and products.
"""

import tensorflow as tf

from byol_tf.images.preprocessing import Preprocessing, to_unit_range

# Of TensorFlow's kernel (resize_bicubic_op.cc): steps between two pixels, and Keys's parameter.
_STEPS = 1024
_A = -0.5


def preprocess(preprocessing: Preprocessing, images: tf.Tensor) -> tf.Tensor:
    """Returns `preprocessing(images)` to float32's precision.

    Args:
        preprocessing: Centre crop, size, resize and normalisation.
        images: uint8 or uint16 `[B, H, W, C]`; B, H and W may be unknown until run.

    Returns:
        float32 `[B, S, S, C]`, normalised.
    """
    pixels = tf.cast(images, tf.float32)  # First: TensorRT does nothing else with uint8.
    if preprocessing.resize == "bilinear":
        # The half keeps tf2onnx from joining both casts to one that TensorRT does not have.
        levels = tf.cast(pixels + 0.5, tf.int32)
        resized = preprocessing.crop_resized(levels, _weighted_sums)
        return preprocessing.normalize(to_unit_range(resized))
    top, left, side = preprocessing.crop_box(pixels)
    rows = _resample(pixels, 1, top, side, preprocessing.image_size)
    resized = _resample(rows, 2, left, side, preprocessing.image_size)
    return preprocessing.normalize(to_unit_range(resized, preprocessing.bit_depth))


def _resample(
    images: tf.Tensor, axis: int, start: tf.Tensor, side: tf.Tensor, size: int
) -> tf.Tensor:
    """Resizes `side` pixels from `start` on to `size` along an axis of `[B, H, W, C]`."""
    # Not `/`: TensorFlow would multiply by 1 / size in a graph, which rounds otherwise.
    scale = tf.math.divide_no_nan(tf.cast(side, tf.float32), float(size))
    positions = (tf.range(size, dtype=tf.float32) + 0.5) * scale - 0.5
    first = tf.floor(positions)
    step = tf.round((positions - first) * _STEPS) / _STEPS
    first = tf.cast(first, tf.int32)
    taps = []
    for offset, weight in (
        (-1, _outer(1 + step)),
        (0, _inner(step)),
        (1, _inner(1 - step)),
        (2, _outer(2 - step)),
    ):
        index = first + offset
        inside = tf.cast((index >= 0) & (index < side), tf.float32)
        taps.append((start + tf.clip_by_value(index, 0, side - 1), weight * inside))
    total = tf.add_n([weight for _, weight in taps])
    shape = [-1, 1] if axis == 2 else [-1, 1, 1]
    return tf.add_n(
        [
            tf.gather(images, index, axis=axis) * tf.reshape(weight / total, shape)
            for index, weight in taps
        ]
    )


def _inner(x: tf.Tensor) -> tf.Tensor:
    """Returns Keys's kernel at distances in [0, 1]."""
    return ((_A + 2) * x - (_A + 3)) * x * x + 1


def _outer(x: tf.Tensor) -> tf.Tensor:
    """Returns Keys's kernel at distances in [1, 2]."""
    return ((_A * x - 5 * _A) * x + 8 * _A) * x - 4 * _A


def _weighted_sums(levels: tf.Tensor, first: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Returns the sums of `pillow.WeightedSums`, tap by tap: all at once are many large tensors."""
    taps, last = tf.shape(weights)[0], tf.shape(levels)[0] - 1

    def add(tap: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        weight = tf.reshape(tf.gather(weights, tap), [-1] + [1] * (len(levels.shape) - 1))
        # Past the end the weight is 0, for any pixel.
        return tap + 1, sums + tf.gather(levels, tf.minimum(first + tap, last)) * weight

    sums = tf.zeros(tf.concat([tf.shape(first), tf.shape(levels)[1:]], axis=0), tf.int32)
    invariants = (tf.TensorShape([]), tf.TensorShape([None, *levels.shape[1:]]))
    return tf.while_loop(lambda tap, _: tap < taps, add, (tf.constant(0), sums), invariants)[1]

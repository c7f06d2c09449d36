"""Turns a photo upright: cameras store it as the sensor saw it, with the turn to show it in EXIF.

Of JPEG, the EXIF segment counts; of PNG, the eXIf chunk. What is damaged or out of range counts as
no turn, as in Pillow and in browsers.
"""

from collections.abc import Callable

import tensorflow as tf

# EXIF comes first in a JPEG, or after a preview or colour profile; a segment has at most 64 kB.
_HEAD = 2**17
_TAG, _SHORT = 0x0112, 3


def apply_exif(image_bytes: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """Returns an image as its EXIF data says to show it.

    Args:
        image_bytes: Content of the file, scalar string, of any format.
        image: Its pixels as stored, `[H, W, D]`.

    Returns:
        The pixels upright: `[H, W, D]`, or `[W, H, D]` for a turn by a quarter.
    """
    return _with_exif(image_bytes, lambda exif: _upright(image, _orientation(exif)), lambda: image)


def read(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns the EXIF orientation of a file, scalar int32 in [1, 8]; 1 is upright.

    Args:
        image_bytes: Content of the file, scalar string, of any format. EXIF data counts if it lies
            in the first 128 kB.
    """
    return _with_exif(image_bytes, _orientation, lambda: tf.constant(1))


def _upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Returns an image `[H, W, D]`, stored with this orientation in [1, 8], as it is to be shown.

    The turn is at most a transposition and then a reversal of the rows, the columns or both.
    """
    flips = (orientation - 1) % 4  # None, columns, both, rows.
    image = tf.cond(orientation > 4, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    axes = tf.boolean_mask([0, 1], tf.stack([flips >= 2, tf.equal((flips - 1) // 2, 0)]))
    return tf.cond(flips > 0, lambda: tf.reverse(image, axes), lambda: image)


def _with_exif(
    image_bytes: tf.Tensor,
    result: Callable[[tf.Tensor], tf.Tensor],
    otherwise: Callable[[], tf.Tensor],
) -> tf.Tensor:
    """Returns `result` of the EXIF data of a file, scalar string, or `otherwise` without them."""
    # Finding the name costs less than walking over the segments: image data of a JPEG cannot
    # contain it by chance, and that of a PNG does once in 4 GB.
    name = tf.where(tf.io.is_jpeg(image_bytes), b"Exif\0\0", b"eXIf")
    head = tf.strings.substr(image_bytes, 0, _HEAD)
    parts = tf.raw_ops.StringSplitV2(input=[head], sep=name, maxsplit=1).values
    return tf.cond(tf.size(parts) > 1, lambda: result(parts[1]), otherwise)


def _orientation(exif: tf.Tensor) -> tf.Tensor:
    """Returns the orientation in EXIF data, scalar int32 in [1, 8].

    They are a TIFF file: the byte order (II or MM) and 42, the position of the first directory, and
    there the number of entries, of 12 bytes each: tag, type, count, value.
    """
    start = tf.strings.substr(exif, 0, 4)
    little, big = tf.equal(start, b"II*\0"), tf.equal(start, b"MM\0*")
    data = tf.io.decode_raw(exif, tf.uint8)
    size = tf.size(data)

    def numbers(values: tf.Tensor) -> tf.Tensor:
        """Returns the numbers of bytes `[..., N]` in the byte order of the file: int64 `[...]`."""
        values = tf.cast(values, tf.int64)
        values = tf.cond(little, lambda: tf.reverse(values, [-1]), lambda: values)
        places = 256 ** tf.range(tf.shape(values, tf.int64)[-1] - 1, -1, -1)
        return tf.reduce_sum(values * places, axis=-1)

    # Whatever the numbers say, a slice ends where the data do.
    directory = data[tf.minimum(numbers(data[4:8]), tf.cast(size, tf.int64)) :]
    count = tf.minimum(
        numbers(directory[:2]), tf.cast(tf.maximum(tf.size(directory) - 2, 0) // 12, tf.int64)
    )
    entries = tf.reshape(directory[2 : 2 + 12 * count], [-1, 12])
    found = tf.equal(numbers(entries[:, :2]), _TAG) & tf.equal(numbers(entries[:, 2:4]), _SHORT)
    found &= tf.equal(numbers(entries[:, 4:8]), 1)
    values = tf.boolean_mask(numbers(entries[:, 8:10]), found & (little | big))
    # The last of several, as in Pillow; or the 1 before them.
    value = tf.cast(tf.concat([[tf.constant(1, tf.int64)], values], axis=0)[-1], tf.int32)
    return tf.where((value >= 1) & (value <= 8), value, 1)

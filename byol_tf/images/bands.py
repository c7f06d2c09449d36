"""PNG files of images with any number of channels, which PNG by itself does not have.

A PNG has one to four channels. Of others, the bands lie one below another in a grey PNG,
`[C * H, W]`, and a chunk right after its header says how many there are (`band_chunk`). So
TensorFlow's decoder reads such an image without loss, and viewers show its bands.
"""

import tensorflow as tf

from byol_tf.images.band_chunk import HEADER, NAME, chunk

_PNG_CHANNELS = 4  # As many as a PNG has.
_ALL = 2**31 - 1


def encode_png(images: tf.Tensor, compression: int = -1) -> tf.Tensor:
    """Writes images as PNG files that `preprocessing.decode_image` reads without loss.

    Args:
        images: uint8 or uint16 `[H, W, C]` or `[B, H, W, C]`, C static.
        compression: zlib's level, 0 to 9; -1 is its default.

    Returns:
        The files, string, scalar or `[B]`.
    """
    images = tf.convert_to_tensor(images)
    channels = images.shape[-1]
    if channels <= _PNG_CHANNELS:
        return tf.io.encode_png(images, compression)
    order = [2, 0, 1] if images.shape.rank == 3 else [0, 3, 1, 2]
    planes = tf.transpose(images, order)  # [..., C, H, W]
    shape = tf.shape(planes)
    below = tf.concat([shape[:-3], [channels * shape[-2], shape[-1], 1]], axis=0)
    return marked(tf.io.encode_png(tf.reshape(planes, below), compression), channels)


def marked(files: tf.Tensor, channels: int) -> tf.Tensor:
    """Returns grey PNG files, string of any shape, with the chunk that says their bands."""
    header = tf.strings.substr(files, 0, HEADER)
    return tf.strings.join([header, chunk(channels), tf.strings.substr(files, HEADER, _ALL)])


def is_stacked(png: tf.Tensor) -> tf.Tensor:
    """Returns whether bands lie below one another in a PNG file, scalar string: scalar bool."""
    pattern = rf"\C{{{HEADER + 4}}}{NAME.decode()}"
    return tf.strings.regex_full_match(tf.strings.substr(png, 0, HEADER + 8), pattern)


def count(png: tf.Tensor) -> tf.Tensor:
    """Returns the bands that lie below one another in such a file, scalar int32."""
    end = HEADER + 12
    head = tf.io.decode_raw(tf.strings.substr(png, 0, end), tf.uint8, fixed_length=end)
    # Two bytes are enough: what claims more has not so many.
    high, low = tf.unstack(tf.cast(head[end - 2 :], tf.int32))
    return 256 * high + low


def decode_png(png: tf.Tensor, channels: int, dtype: tf.DType) -> tf.Tensor:
    """Decodes a PNG file of `encode_png`, or one that has as many channels by itself.

    Args:
        png: Content of the file, scalar string.
        channels: C.
        dtype: uint8 or uint16; the file's depth is converted to it.

    Returns:
        `[H, W, C]`.

    Raises:
        tf.errors.InvalidArgumentError: The file has another number of bands, or is not complete;
            raised when run.
    """
    stored = tf.io.decode_png(png, channels=0, dtype=dtype)

    def unstack() -> tf.Tensor:
        found, height, width = count(png), tf.shape(stored)[0], tf.shape(stored)[1]
        # Whatever the file claims, the bands have all its pixels, or this fails.
        planes = tf.reshape(stored, [found, height // tf.maximum(found, 1), width])
        return tf.transpose(planes, [1, 2, 0])

    image = tf.cond(is_stacked(png), unstack, lambda: stored)
    found = tf.shape(image)[-1]
    return tf.cond(
        tf.equal(found, channels), lambda: image, lambda: refused(found, channels, dtype)
    )


def refused(found: tf.Tensor, channels: int, dtype: tf.DType) -> tf.Tensor:
    """Stands for an image of `found` other bands: fails when run."""
    noun = tf.where(tf.equal(found, 1), " band", " bands")
    sentence = tf.strings.join(
        ["it has ", tf.as_string(found), noun, f", not the {channels} of config.channels"]
    )
    with tf.control_dependencies([tf.debugging.Assert(found < 0, [sentence])]):
        return tf.zeros([1, 1, channels], dtype)

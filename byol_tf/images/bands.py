"""PNG files of images with any number of channels, which PNG by itself does not have.

A PNG has one to four channels. Of others, the bands lie one below another in a grey PNG,
`[C * H, W]`, and a chunk `baND` right after its header says how many there are. So TensorFlow's
decoder reads such an image without loss, and viewers show its bands.
"""

import struct
import zlib

import tensorflow as tf

_PNG_CHANNELS = 4  # As many as a PNG has.
# By PNG's rules on names: ancillary, private, not to be copied by an editor that changes pixels.
_CHUNK = b"baND"
_HEADER = 33  # Bytes before it: the signature and the chunk IHDR.
_ALL = 2**31 - 1


def encode_png(images: tf.Tensor, compression: int = -1) -> tf.Tensor:
    """Writes images as PNG files that `preprocessing.decode_image` reads without loss.

    Args:
        images: uint8 or uint16 `[H, W, C]` or `[B, H, W, C]`, C static.
        compression: zlib's level, 0 to 9; -1 is its default.

    Returns:
        The files, string, scalar or `[B]`.
    """
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
    header = tf.strings.substr(files, 0, _HEADER)
    return tf.strings.join([header, chunk(channels), tf.strings.substr(files, [_HEADER], [_ALL])])


def chunk(channels: int) -> bytes:
    """Returns the chunk that belongs after the first 33 bytes of a grey PNG of stacked bands."""
    content = _CHUNK + struct.pack(">I", channels)
    return struct.pack(">I", 4) + content + struct.pack(">I", zlib.crc32(content))


def count(png: tf.Tensor) -> tf.Tensor:
    """Returns the bands that lie below one another in a PNG file, scalar int32; 0 of a plain one.

    Args:
        png: Content of the file, scalar string.
    """
    end = _HEADER + 12
    head = tf.io.decode_raw(tf.strings.substr(png, 0, end), tf.uint8, fixed_length=end)
    head = tf.cast(head, tf.int32)
    found = tf.reduce_all(head[_HEADER + 4 : _HEADER + 8] == [*_CHUNK])
    # Two bytes are enough: what claims more has not so many.
    number = 256 * head[_HEADER + 10] + head[_HEADER + 11]
    return tf.where(found, number, 0)


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
    stacked = count(png)
    stored = tf.io.decode_png(png, channels=0, dtype=dtype)

    def unstack() -> tf.Tensor:
        height, width = tf.shape(stored)[0], tf.shape(stored)[1]
        return tf.transpose(tf.reshape(stored, [stacked, height // stacked, width]), [1, 2, 0])

    image = tf.cond(stacked > 0, unstack, lambda: stored)
    found = tf.shape(image)[-1]
    with tf.control_dependencies([refused(found, channels, found == channels)]):
        return tf.identity(image)


def refused(found: tf.Tensor, channels: int, unless: tf.Tensor) -> tf.Operation | None:
    """Asserts that a file has the bands that are wanted; the message is `mismatch`."""
    noun = tf.where(tf.equal(found, 1), " band", " bands")
    sentence = tf.strings.join(
        ["it has ", tf.as_string(found), noun, f", not the {channels} of config.channels"]
    )
    return tf.debugging.Assert(unless, [sentence])


def mismatch(found: int, channels: int) -> str:
    """Returns why a file of other bands is refused, a reason for a list of corrupt images."""
    noun = "band" if found == 1 else "bands"
    return f"it has {found} {noun}, not the {channels} of config.channels"

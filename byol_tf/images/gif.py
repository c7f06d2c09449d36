"""Cuts a GIF after its first frame, which is the only one that is decoded.

TensorFlow unpacks all frames of an animation to return the first.
"""

import tensorflow as tf

# Bytes of sub-blocks that one step passes: larger steps are not faster.
_STEP = 2**12
# The longest sub-block with the byte that gives its length.
_LONGEST = 256
# Loop count, colour profile, XMP, comment and timing make five or so.
_MAX_EXTENSIONS = 32


def first_frame(gif: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns a GIF up to the end of its first frame, and the frame's pixels.

    The time it takes grows with the length of the first frame's data, however finely that is
    divided (GIF89a specification, appendix B).

    Args:
        gif: Content of the file, scalar string.

    Returns:
        The file, scalar string, and the pixels that the frame claims, scalar int64. The frame's own
        size counts, not the screen's. If no frame begins after at most 32 extensions, the file is
        cut before it, so that the decoder finds none, and has 0 pixels.
    """
    # Blocks follow the header, screen and colour table: an extension (0x21, label) or an image
    # (0x2C, position, size, colour table, code size), each followed by sub-blocks that begin with
    # their length; the last has length 0.
    data = tf.io.decode_raw(gif, tf.uint8)
    size = tf.size(data)

    def byte(position: tf.Tensor) -> tf.Tensor:
        return tf.where(position < size, tf.cast(data[tf.minimum(position, size - 1)], tf.int32), 0)

    def word(position: tf.Tensor) -> tf.Tensor:
        return tf.cast(byte(position) + 256 * byte(position + 1), tf.int64)

    def colours(flags: tf.Tensor) -> tf.Tensor:
        """Returns the size in bytes of the colour table that these flags announce."""
        shift = tf.bitwise.left_shift(6, tf.bitwise.bitwise_and(flags, 7))
        return tf.where(flags >= 128, shift, 0)

    def skip_sub_blocks(position: tf.Tensor) -> tf.Tensor:
        (last,) = tf.while_loop(
            lambda at: (byte(at) > 0) & (at < size),
            lambda at: [at + _end_of_sub_blocks(data[at : at + _STEP])],
            [position],
        )
        return last + 1

    (start,) = tf.while_loop(
        lambda at: tf.equal(byte(at), 0x21) & (at < size),
        lambda at: [skip_sub_blocks(at + 2)],
        [13 + colours(byte(tf.constant(10)))],
        maximum_iterations=_MAX_EXTENSIONS,
    )

    def cut() -> tuple[tf.Tensor, tf.Tensor]:
        end = skip_sub_blocks(start + 11 + colours(byte(start + 9)))
        first = tf.strings.substr(gif, 0, tf.minimum(end, size))
        return tf.strings.join([first, b";"]), word(start + 5) * word(start + 7)

    def without_frame() -> tuple[tf.Tensor, tf.Tensor]:
        return tf.strings.substr(gif, 0, 13), tf.constant(0, tf.int64)

    return tf.cond(tf.equal(byte(start), 0x2C), cut, without_frame)


def _end_of_sub_blocks(data: tf.Tensor) -> tf.Tensor:
    """Returns where the sub-blocks end: at the one of length 0, or after the end of the data.

    Every byte points to the next sub-block, if one begins there; doubling these jumps follows all
    chains at once. One jump after another would take 17 microseconds each, for 2 bytes or more.

    Args:
        data: At most `_STEP` bytes, uint8 `[N]`; a sub-block begins at the first.

    Returns:
        Position relative to the first byte, scalar int32.
    """
    lengths = tf.pad(tf.cast(data, tf.int32), [[0, _LONGEST]])
    ends = tf.range(tf.size(lengths)) + tf.where(lengths > 0, lengths + 1, 0)
    for _ in range((_STEP // 2).bit_length() - 1):  # A jump passes at least 2 bytes.
        ends = tf.gather(ends, ends)
    return ends[0]

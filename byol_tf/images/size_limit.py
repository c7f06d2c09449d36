"""Rejects images whose header claims more than MAX_PIXELS.

A served model decodes whatever it is sent. A few kilobytes of PNG or JPEG can claim half a billion
pixels, and TensorFlow unpacks all frames of an animated GIF to return the first.
"""

import tensorflow as tf

# 8192 x 8192; 201 MB of RGB. Full-frame cameras make 61 megapixels.
MAX_PIXELS = 2**26


def bounded(image_bytes: tf.Tensor) -> tf.Tensor:
    """Refuses images whose header claims more than `MAX_PIXELS`; cuts GIFs after the first frame.

    Args:
        image_bytes: Files, string `[B]`.

    Returns:
        String `[B]`: the same files, or GIFs with the same first frame. Bytes that are not an image
        pass, so that the decoder reports them. So does BMP: it is as large as it claims, or does
        not decode.

    Raises:
        tf.errors.InvalidArgumentError: An image is too large; raised when run.
    """
    # All headers at once, and one condition for all GIFs: a condition per image costs as much as
    # decoding a small one.
    head = tf.io.decode_raw(tf.strings.substr(image_bytes, 0, 24), tf.uint8, fixed_length=24)
    is_png = tf.reduce_all(head[:, :8] == [*b"\x89PNG\r\n\x1a\n"], axis=1)
    is_gif = tf.reduce_all(head[:, :4] == [*b"GIF8"], axis=1)
    sides = tf.reduce_sum(
        tf.cast(tf.reshape(head[:, 16:], [-1, 2, 4]), tf.int64) * [2**24, 2**16, 2**8, 1], axis=2
    )
    pixels = tf.where(
        is_png, tf.reduce_prod(sides, axis=1), tf.map_fn(_jpeg_pixels, image_bytes, tf.int64)
    )
    files = _checked(image_bytes, pixels)

    def cut_gifs() -> tf.Tensor:
        return tf.map_fn(
            lambda pair: tf.cond(pair[0], lambda: _first_frame(pair[1]), lambda: pair[1]),
            (is_gif, files),
            fn_output_signature=tf.string,
        )

    return tf.cond(tf.reduce_any(is_gif), cut_gifs, lambda: files)


def _jpeg_pixels(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns the pixels that a JPEG's header claims, 0 for other files: scalar int64."""
    shape = tf.cond(
        tf.io.is_jpeg(image_bytes),
        lambda: tf.io.extract_jpeg_shape(image_bytes),
        lambda: tf.zeros([3], tf.int32),
    )
    return tf.reduce_prod(tf.cast(shape[:2], tf.int64))


def _checked(image_bytes: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
    """Returns the files if none has too many pixels."""
    message = (
        f"an image has more pixels than the {MAX_PIXELS} this model takes; make it smaller first"
    )
    fits = tf.reduce_all((pixels >= 0) & (pixels <= MAX_PIXELS))
    with tf.control_dependencies([tf.debugging.Assert(fits, [message, pixels])]):
        return tf.identity(image_bytes)


def _first_frame(gif: tf.Tensor) -> tf.Tensor:
    """Returns the GIF up to the end of its first frame (GIF89a specification, appendix B).

    Blocks follow the header, screen and colour table: an extension (0x21, label) or an image (0x2C,
    position, size, colour table, code size), each followed by sub-blocks that begin with their
    length; the last has length 0.
    """
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
            lambda at: (byte(at) > 0) & (at < size), lambda at: [at + 1 + byte(at)], [position]
        )
        return last + 1

    def skip_extension(position: tf.Tensor) -> list[tf.Tensor]:
        return [skip_sub_blocks(position + 2)]

    (start,) = tf.while_loop(
        lambda at: tf.equal(byte(at), 0x21) & (at < size),
        skip_extension,
        [13 + colours(byte(tf.constant(10)))],
    )
    end = skip_sub_blocks(start + 11 + colours(byte(start + 9)))
    # The frame's own size counts, not the screen's.
    first = _checked(
        tf.strings.substr(gif, 0, tf.minimum(end, size)), word(start + 5) * word(start + 7)
    )
    is_image = tf.equal(byte(start), 0x2C)
    return tf.cond(
        is_image, lambda: tf.strings.join([first, b";"]), lambda: tf.strings.substr(gif, 0, 13)
    )

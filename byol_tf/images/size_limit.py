"""Rejects files that cost too much to decode: too many pixels, scans or compressed metadata.

A served model decodes whatever it is sent. A few kilobytes of PNG or JPEG can claim half a billion
pixels, or have them passed over thousands of times.
"""

import tensorflow as tf

from byol_tf.images import gif

# 8192 x 8192; 201 MB of RGB. Full-frame cameras make 61 megapixels.
MAX_PIXELS = 2**26

# The scans of a JPEG, times its pixels. Each scan passes over all pixels, though it may have ten
# bytes. A progressive JPEG has about 10 scans, 18 in CMYK, and the images that cameras embed or
# append have one each: this allows 16 for the most pixels, 89 for 12 megapixels.
MAX_SCANNED_PIXELS = 16 * MAX_PIXELS
# A scan costs as much as passing over these, at least: it builds tables.
_PIXELS_PER_SCAN = 2**14

# The decoder unpacks each compressed chunk of metadata of a PNG, to as much as 8 MB. Editors write
# a colour profile, EXIF, IPTC, XMP and a comment.
MAX_PNG_METADATA = 16


def bounded(image_bytes: tf.Tensor) -> tf.Tensor:
    """Refuses images that cost too much to decode; cuts GIFs after the first frame.

    Args:
        image_bytes: Files, string `[B]`.

    Returns:
        String `[B]`: the same files, or GIFs with the same first frame. Bytes that are not an image
        pass, so that the decoder reports them. So does BMP: it is as large as it claims, or does
        not decode.

    Raises:
        tf.errors.InvalidArgumentError: An image has more than `MAX_PIXELS`, a JPEG more than
            `MAX_SCANNED_PIXELS` or a PNG more than `MAX_PNG_METADATA`; raised when run.
    """
    # All files at once, and one condition for each format: a condition per image costs as much as
    # decoding a small one.
    head = tf.io.decode_raw(tf.strings.substr(image_bytes, 0, 24), tf.uint8, fixed_length=24)
    is_png = tf.reduce_all(head[:, :8] == [*b"\x89PNG\r\n\x1a\n"], axis=1)
    is_gif = tf.reduce_all(head[:, :4] == [*b"GIF8"], axis=1)
    png_pixels = tf.reduce_prod(
        tf.reduce_sum(
            tf.cast(tf.reshape(head[:, 16:], [-1, 2, 4]), tf.int64) * [2**24, 2**16, 2**8, 1],
            axis=2,
        ),
        axis=1,
    )
    jpeg_pixels = tf.map_fn(_jpeg_pixels, image_bytes, fn_output_signature=tf.int64)
    nothing = tf.zeros_like(jpeg_pixels)

    def cut_gifs() -> tuple[tf.Tensor, tf.Tensor]:
        return tf.map_fn(
            lambda pair: tf.cond(
                pair[0],
                lambda: gif.first_frame(pair[1]),
                lambda: (pair[1], tf.constant(0, tf.int64)),
            ),
            (is_gif, image_bytes),
            fn_output_signature=(tf.string, tf.int64),
        )

    files, gif_pixels = tf.cond(
        tf.reduce_any(is_gif), cut_gifs, lambda: (tf.identity(image_bytes), nothing)
    )
    pixels = tf.where(is_png, png_pixels, jpeg_pixels + gif_pixels)
    is_jpeg = jpeg_pixels > 0
    # A scan begins with this marker, and a length below 256. Image data never contains them.
    scans = tf.cond(
        tf.reduce_any(is_jpeg), lambda: _count(image_bytes, b"\xff\xda\x00"), lambda: nothing
    )
    scanned = tf.where(is_jpeg, scans * tf.maximum(pixels, _PIXELS_PER_SCAN), 0)
    metadata = tf.cond(
        tf.reduce_any(is_png),
        lambda: tf.add_n([_count(image_bytes, name) for name in (b"iCCP", b"iTXt", b"zTXt")]),
        lambda: nothing,
    )
    checks = (
        (
            (pixels >= 0) & (pixels <= MAX_PIXELS),
            f"an image has more pixels than the {MAX_PIXELS} this model takes; make it smaller "
            "first",
            pixels,
        ),
        (
            scanned <= MAX_SCANNED_PIXELS,
            "a JPEG has more scans than this model takes for its size; save it without progressive "
            "coding first",
            scans,
        ),
        (
            ~is_png | (metadata <= MAX_PNG_METADATA),
            f"a PNG has more than the {MAX_PNG_METADATA} chunks of compressed text this model "
            "takes; remove its metadata first",
            metadata,
        ),
    )
    with tf.control_dependencies(
        [
            tf.debugging.Assert(tf.reduce_all(fits), [message, values])
            for fits, message, values in checks
        ]
    ):
        return tf.identity(files)


def _jpeg_pixels(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns the pixels that a JPEG's header claims, 0 for other files: scalar int64."""
    shape = tf.cond(
        tf.io.is_jpeg(image_bytes),
        lambda: tf.io.extract_jpeg_shape(image_bytes),
        lambda: tf.zeros([3], tf.int32),
    )
    return tf.reduce_prod(tf.cast(shape[:2], tf.int64))


def _count(files: tf.Tensor, wanted: bytes) -> tf.Tensor:
    """Returns how often each file, string `[B]`, contains the bytes `wanted`: int64 `[B]`."""
    return tf.strings.split(files, wanted).row_lengths() - 1

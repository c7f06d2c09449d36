"""Transform's `preprocessing_fn`: reduces large images."""

from collections.abc import Callable

import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.images import bands
from byol_tf.images.preprocessing import decode_image

_JPEG_FORMATS = {1: "grayscale", 3: "rgb"}


def preprocessing_fn(inputs: dict[str, tf.Tensor], custom_config: dict) -> dict[str, tf.Tensor]:
    """Bounds the images' shorter side; all other features stay as they are.

    Args:
        inputs: Features of ImageExampleGen, each `[B, 1]`.
        custom_config: Dict with `shorter_side` in pixels, `channels` and `bit_depth`.
    """
    bounded = tf.map_fn(
        lambda image_bytes: bound_shorter_side(
            image_bytes,
            custom_config["shorter_side"],
            channels=custom_config["channels"],
            bit_depth=custom_config["bit_depth"],
        ),
        tf.reshape(inputs["image/encoded"], [-1]),
        fn_output_signature=tf.string,
    )
    return inputs | {"image/encoded": bounded[:, tf.newaxis]}


def bound_shorter_side(
    image_bytes: tf.Tensor,
    shorter_side: int,
    quality: int = 95,
    channels: int = 3,
    bit_depth: int = 8,
) -> tf.Tensor:
    """Reduces a large image file, so that it takes less space and crops of it cost less.

    A file within the bound is returned unchanged, whatever its format; only the header of a JPEG is
    read then, so damage further on is left for a decoder to find.

    Args:
        image_bytes: Content of the file, scalar string; any format that `decode_image` takes.
        shorter_side: Largest allowed shorter side in pixels, at least 1.
        quality: Quality of the JPEG that replaces a larger image, in [1, 100]; its colours have the
            full resolution.
        channels, bit_depth: What `decode_image` makes of the file.

    Returns:
        Scalar string: the same bytes, or a file of the same aspect whose shorter side is
        `shorter_side`. It is upright and has no EXIF data: a JPEG if it is grey or RGB of 8 bits,
        else a PNG of all channels and bits.

    Raises:
        UserError: `shorter_side` or `quality` is out of range.
        tf.errors.InvalidArgumentError: When run, if the bytes are not an image, or the longer side
            would exceed the 65,535 pixels that JPEG allows.
    """
    if shorter_side < 1:
        raise UserError(f"shorter_side is {shorter_side}; give at least 1 pixel.")
    if not 1 <= quality <= 100:
        raise UserError(f"the JPEG quality is {quality}; give one in [1, 100].")
    image_bytes = tf.convert_to_tensor(image_bytes, tf.string)

    def bounded(size: tf.Tensor, decode: Callable[[], tf.Tensor]) -> tf.Tensor:
        within = tf.reduce_min(size) <= shorter_side
        return tf.cond(within, lambda: image_bytes, lambda: shrunk(decode()))

    def shrunk(image: tf.Tensor) -> tf.Tensor:
        # Of the upright image: the header of a JPEG has the size as stored.
        size = tf.cast(tf.shape(image)[:2], tf.float64)  # Exact: shorter · shorter_side / shorter.
        new_size = tf.cast(tf.round(size * shorter_side / tf.reduce_min(size)), tf.int32)
        # Antialiased bicubic, as in Pillow, keeps more detail than averaging over areas.
        resized = tf.image.resize(image, new_size, tf.image.ResizeMethod.BICUBIC, antialias=True)
        pixels = tf.saturate_cast(tf.round(resized), image.dtype)
        if bit_depth == 8 and channels in _JPEG_FORMATS:
            form = _JPEG_FORMATS[channels]
            return tf.io.encode_jpeg(pixels, form, quality, chroma_downsampling=False)
        return bands.encode_png(pixels)

    def decoded() -> tf.Tensor:
        return decode_image(image_bytes, channels, bit_depth)

    def bounded_jpeg() -> tf.Tensor:
        size = tf.io.extract_jpeg_shape(image_bytes)[:2]
        return bounded(size, decoded)

    def bounded_other() -> tf.Tensor:
        image = decoded()
        return bounded(tf.shape(image)[:2], lambda: image)

    return tf.cond(tf.io.is_jpeg(image_bytes), bounded_jpeg, bounded_other)

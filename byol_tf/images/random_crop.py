"""Random resized crops, taken on the host while an image is decoded (paper appendix B)."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from byol_tf.images import orientation, preprocessing, seeded
from byol_tf.images.view_config import ViewConfig


def random_crop_windows(
    height: tf.Tensor, width: tf.Tensor, seed: tf.Tensor, views: Sequence[ViewConfig]
) -> tf.Tensor:
    """Draws the window of one random resized crop for each of N views.

    Area and aspect are drawn once and the sides are clamped to the image, as in DeepMind's byol
    (dataset.py:_decode_and_random_crop); other implementations draw again until a window fits.

    Args:
        height, width: Size of the image in pixels, int32 scalars.
        seed: Seed of the draws, int `[2]`.
        views: N view distributions, of which crop_area and crop_aspect are used.

    Returns:
        int32 `[N, 4]`, each (top, left, height, width), inside the image and at least one pixel.
    """
    draws = seeded.uniform([4, len(views)], seed)
    min_area, max_area = np.array([view.crop_area for view in views], np.float32).T
    area = (min_area + draws[0] * (max_area - min_area)) * tf.cast(height * width, tf.float32)
    min_log, max_log = np.log(np.array([view.crop_aspect for view in views], np.float32)).T
    aspect = tf.exp(min_log + draws[1] * (max_log - min_log))
    # Columns are (height, width).
    limits = tf.stack([height, width])
    sides = tf.sqrt(tf.stack([area / aspect, area * aspect], axis=1))
    sides = tf.clip_by_value(tf.cast(tf.round(sides), tf.int32), 1, limits)
    corners = seeded.uniform_int(tf.transpose(draws[2:]), limits - sides)
    return tf.concat([corners, sides], axis=1)


def decode_and_random_crops(
    image_bytes: tf.Tensor,
    seed: tf.Tensor,
    image_size: int,
    views: Sequence[ViewConfig],
    channels: int = 3,
    bit_depth: int = 8,
) -> list[tf.Tensor]:
    """Decodes one image file to N random resized crops, on the host.

    For an upright JPEG, only the smallest window that contains all crops is decoded, once; other
    files are decoded whole. Formats, alpha and EXIF orientation are those of
    `preprocessing.decode_image`.

    Args:
        image_bytes: Content of the file, scalar string.
        seed: Seed of the draws, int `[2]`.
        image_size: Side S of the crops, in pixels.
        views: N view distributions, of which crop_area and crop_aspect are used.
        channels, bit_depth: Arguments of `preprocessing.decode_image`.

    Returns:
        N crops, float32 `[S, S, C]` in [0, 1].

    Raises:
        tf.errors.InvalidArgumentError: The bytes are not a complete image; raised when run.
    """
    return [
        preprocessing.to_unit_range(crop, bit_depth)
        for crop in resized_crops(image_bytes, seed, image_size, views, channels, bit_depth)
    ]


def decode_and_random_crop(
    image_bytes: tf.Tensor,
    seed: tf.Tensor,
    image_size: int,
    view: ViewConfig,
    channels: int = 3,
    bit_depth: int = 8,
) -> tf.Tensor:
    """Decodes one image file to one random resized crop, float32 `[S, S, C]` in [0, 1]."""
    (crop,) = decode_and_random_crops(image_bytes, seed, image_size, [view], channels, bit_depth)
    return crop


def resized_crops(
    image_bytes: tf.Tensor,
    seed: tf.Tensor,
    image_size: int,
    views: Sequence[ViewConfig],
    channels: int = 3,
    bit_depth: int = 8,
) -> list[tf.Tensor]:
    """Makes the crops of `decode_and_random_crops`, in about [0, 255] or [0, 65535]."""

    def from_jpeg() -> tuple[tf.Tensor, tf.Tensor]:
        height, width, _ = tf.unstack(tf.image.extract_jpeg_shape(image_bytes))
        windows = random_crop_windows(height, width, seed, views)
        start = tf.reduce_min(windows[:, :2], axis=0)
        end = tf.reduce_max(windows[:, :2] + windows[:, 2:], axis=0)
        union = tf.concat([start, end - start], axis=0)
        image = tf.image.decode_and_crop_jpeg(
            image_bytes, union, channels=channels, dct_method=preprocessing.JPEG_DCT
        )
        image = preprocessing.in_depth(image, bit_depth)
        return image, windows - tf.concat([start, [0, 0]], axis=0)

    def from_other() -> tuple[tf.Tensor, tf.Tensor]:
        image = preprocessing.decode_image(image_bytes, channels, bit_depth)
        height, width, _ = tf.unstack(tf.shape(image))
        return image, random_crop_windows(height, width, seed, views)

    is_upright = tf.equal(orientation.read(image_bytes), 1)
    if channels in (1, 3):
        image, windows = tf.cond(tf.io.is_jpeg(image_bytes) & is_upright, from_jpeg, from_other)
    else:
        image, windows = from_other()
    crops = []
    for top, left, height, width in (tf.unstack(windows[view]) for view in range(len(views))):
        crop = tf.slice(image, tf.stack([top, left, 0]), tf.stack([height, width, channels]))
        crops.append(preprocessing.resize_bicubic(crop, image_size))
    return crops

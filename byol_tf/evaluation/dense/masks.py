"""Pairs of an image and a class mask of a VOC split, for a segmentation network."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import ml_collections
import numpy as np
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.evaluation.dense import pairs
from byol_tf.evaluation.dense.voc import VOC
from byol_tf.images import seeded
from byol_tf.images.preprocessing import Preprocessing, decode_image

if TYPE_CHECKING:
    from PIL.Image import Image

VOID = 255  # Mask value of pixels without a class, ignored by loss and score.


def checked_pairs(
    data: VOC, decode: Callable[[tf.Tensor], tf.Tensor] = decode_image
) -> list[tuple[str, str]]:
    """Returns the paths of images, which `decode` decodes, and masks, after checking every pixel.

    Raises:
        UserError: A file cannot be read, or a mask is not a palette or grey PNG, has another size
            than its image, is entirely void, or contains an unknown class ID.
    """
    paths = [(data.image_path(image_id), data.mask_path(image_id)) for image_id in data.image_ids]
    largest = len(data.class_names)

    def check(mask: "Image", path: str) -> None:
        if mask.mode not in ("P", "L"):
            raise UserError(
                f"the mask '{path}' holds colours (mode {mask.mode}), not class ids; save it as "
                "an 8-bit palette or grey PNG."
            )
        ids = np.unique(np.asarray(mask))
        if ids.tolist() == [VOID]:
            raise UserError(f"the mask '{path}' has no pixel with a class; remove the image.")
        unknown = ids[(ids > largest) & (ids != VOID)].tolist()
        if unknown:
            raise UserError(
                f"the mask '{path}' has the class ids {unknown}, which are neither in "
                f"[0, {largest}] nor {VOID} for void; correct it, or the names in classes.txt."
            )

    pairs.check_pairs(paths, check, decode)
    return paths


def _read_pair(
    image_path: tf.Tensor, mask_path: tf.Tensor, preprocessing: Preprocessing
) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads a normalised image float32 `[H, W, C]` and a mask uint8 `[H, W, 1]`."""
    mask = tf.numpy_function(_read_mask, [mask_path], tf.uint8, stateful=False)
    mask = tf.ensure_shape(mask, [None, None])[..., tf.newaxis]
    return preprocessing.normalize(pairs.read_image(image_path, preprocessing)), mask


def _read_mask(path: bytes) -> np.ndarray:
    # TensorFlow's decoder returns colours of a palette image instead of indices.
    import PIL.Image

    with tf.io.gfile.GFile(path, "rb") as file, PIL.Image.open(file, formats=["PNG"]) as mask:
        return np.asarray(mask)


def _padded(image: tf.Tensor, mask: tf.Tensor, smallest: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Pads to at least `smallest` pixels a side: mean colour and void around the centre."""
    size = tf.maximum(tf.shape(image)[:2], smallest)
    image = tf.image.resize_with_crop_or_pad(image, size[0], size[1])
    # Void is 255 but padding is 0, so the complement is padded.
    mask = VOID - tf.image.resize_with_crop_or_pad(VOID - mask, size[0], size[1])
    return image, mask


def training_batches(
    paths: Sequence[tuple[str, str]],
    preprocessing: Preprocessing,
    config: ml_collections.ConfigDict,
    seed: int,
) -> tf.data.Dataset:
    """Returns randomly scaled, cropped and flipped batches.

    Args:
        paths: Pairs of `checked_pairs`.
        preprocessing: Preprocessing, of which the normalisation is used.
        config: Section `segmentation`; scale, crop_size S, batch_size B and steps are used.
        seed: Seed of order and augmentation.

    Returns:
        Data set of images float32 `[B, S, S, C]` and masks uint8 `[B, S, S]`.
    """
    crop_size, (smallest, largest) = config.crop_size, config.scale

    def example(image_path, mask_path, example_seed):
        image, mask = _read_pair(image_path, mask_path, preprocessing)
        scale, top, left, flip = tf.unstack(seeded.uniform([4], example_seed))
        scale = smallest + (largest - smallest) * scale
        size = tf.cast(tf.round(scale * tf.cast(tf.shape(image)[:2], tf.float32)), tf.int32)
        size = tf.maximum(size, 1)
        image = tf.image.resize(image, size)
        mask = tf.image.resize(mask, size, tf.image.ResizeMethod.NEAREST_NEIGHBOR)
        image, mask = _padded(image, mask, crop_size)
        room = tf.shape(image)[:2] - crop_size
        top, left = seeded.uniform_int(top, room[0]), seeded.uniform_int(left, room[1])
        image, mask = (x[top : top + crop_size, left : left + crop_size] for x in (image, mask))
        image, mask = (tf.where(flip < 0.5, x[:, ::-1], x) for x in (image, mask[..., 0]))
        image = tf.ensure_shape(image, [crop_size, crop_size, preprocessing.channels])
        return image, tf.ensure_shape(mask, [crop_size, crop_size])

    return pairs.batches(paths, example, config.batch_size, config.steps, seed)


def evaluation_pairs(
    paths: Sequence[tuple[str, str]], preprocessing: Preprocessing, smallest: int
) -> tf.data.Dataset:
    """Returns padded images and masks of any size: float32 `[1, H, W, C]`, uint8 `[1, H, W]`.

    The paper evaluates central crops of 513 x 513 pixels, to which VOC's images, at most 500 wide
    and high, are padded. Larger images are not cropped here: all their pixels count.
    """

    def load(image_path, mask_path):
        image, mask = _read_pair(image_path, mask_path, preprocessing)
        image, mask = _padded(image, mask, smallest)
        return image, mask[..., 0]

    columns = tuple(tf.constant(column) for column in zip(*paths, strict=True))
    dataset = tf.data.Dataset.from_tensor_slices(columns).map(load, tf.data.AUTOTUNE)
    return dataset.batch(1).prefetch(tf.data.AUTOTUNE)

"""Pairs of an image and a mask of classes, of a VOC split, as a segmentation network takes them."""

import ml_collections
import numpy as np
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.evaluation.dense import pairs
from byol_tf.evaluation.dense.voc import VOC
from byol_tf.images import seeded
from byol_tf.images.preprocessing import Preprocessing

VOID = 255  # In a mask: of no class, left out of loss and score.


def checked_pairs(data: VOC) -> list[tuple[str, str]]:
    """Paths of image and mask, after a look at every pixel.

    Raises:
        UserError: a file that cannot be read, a mask that is no palette or grey PNG, is of another
            size than its image, is void all over, or has an id of no class.
    """
    pairs = [(data.image_path(image_id), data.mask_path(image_id)) for image_id in data.image_ids]
    largest = len(data.class_names)

    def check(mask, path):
        if mask.mode not in ("P", "L"):
            raise UserError(
                f"the mask '{path}' holds colours (mode {mask.mode}), not class ids; save it as a "
                "palette or grey PNG of 8 bits."
            )
        ids = np.unique(np.asarray(mask))
        if ids.tolist() == [VOID]:
            raise UserError(f"the mask '{path}' has no pixel with a class; remove the image.")
        unknown = ids[(ids > largest) & (ids != VOID)].tolist()
        if unknown:
            raise UserError(
                f"the mask '{path}' has the class ids {unknown}, outside [0, {largest}] and not "
                f"{VOID} for void; correct it, or the names in classes.txt."
            )

    pairs.check_pairs(pairs, check)
    return pairs


def _read_pair(image_path, mask_path, preprocessing: Preprocessing):
    """Normalised image float32 [H, W, 3] and mask uint8 [H, W, 1]."""
    mask = tf.numpy_function(_read_mask, [mask_path], tf.uint8, stateful=False)
    mask = tf.ensure_shape(mask, [None, None])[..., tf.newaxis]
    return preprocessing.normalize(pairs.read_image(image_path)), mask


def _read_mask(path: bytes) -> np.ndarray:
    # TensorFlow's decoder gives a palette's colours; what is wanted is the index.
    import PIL.Image

    with tf.io.gfile.GFile(path, "rb") as file, PIL.Image.open(file) as mask:
        return np.asarray(mask)


def _padded(image, mask, smallest: int):
    """Centred in at least `smallest` pixels: mean colour and void around it."""
    size = tf.maximum(tf.shape(image)[:2], smallest)
    image = tf.image.resize_with_crop_or_pad(image, size[0], size[1])
    # Void is 255, and the padding is 0: complements make it void.
    mask = VOID - tf.image.resize_with_crop_or_pad(VOID - mask, size[0], size[1])
    return image, mask


def training_batches(
    pairs, preprocessing: Preprocessing, config: ml_collections.ConfigDict, seed: int
) -> tf.data.Dataset:
    """Randomly scaled, cropped and flipped: images float32 [B, S, S, 3], masks uint8 [B, S, S].

    Args:
        pairs: of `checked_pairs`.
        preprocessing: of which the normalisation is used.
        config: its scale, crop_size S, batch_size B and steps are used.
        seed: decides everything drawn.
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
        image = tf.ensure_shape(image, [crop_size, crop_size, 3])
        return image, tf.ensure_shape(mask, [crop_size, crop_size])

    return pairs.batches(pairs, example, config.batch_size, config.steps, seed)


def evaluation_pairs(pairs, preprocessing: Preprocessing, smallest: int) -> tf.data.Dataset:
    """Each image as it is, but for the padding: float32 [1, H, W, 3], uint8 [1, H, W].

    The paper infers on the central crop of 513 x 513 pixels, which VOC's images, of 500 at most,
    are padded to. Larger images are not cropped: all their pixels count.
    """

    def load(image_path, mask_path):
        image, mask = _padded(*_read_pair(image_path, mask_path, preprocessing), smallest)
        return image, mask[..., 0]

    paths = tuple(tf.constant(column) for column in zip(*pairs, strict=True))
    dataset = tf.data.Dataset.from_tensor_slices(paths).map(load, tf.data.AUTOTUNE)
    return dataset.batch(1).prefetch(tf.data.AUTOTUNE)

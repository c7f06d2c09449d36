"""Images with boxes, scaled into squares of one size and batched for a detector.

An image is scaled so that its longer side fits, and padded at the right and below with the mean
colour. Boxes are scaled with it, and detections are scaled back.
"""

import numpy as np
import tensorflow as tf

from byol_tf.evaluation.dense.boxes import BoxData, BoxedImage
from byol_tf.evaluation.dense.pairs import read_image
from byol_tf.images import seeded
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.sources.source import shuffled_indices

_PADDING = -1.0  # Marks padding of boxes and classes.


def fitted_size(image: BoxedImage, image_size: int) -> tuple[int, int]:
    """Returns width and height in pixels after scaling the longer side to `image_size`."""
    scale = image_size / max(image.width, image.height)
    return max(1, round(scale * image.width)), max(1, round(scale * image.height))


def to_fitted(boxes: np.ndarray, image: BoxedImage, image_size: int) -> np.ndarray:
    """Returns boxes `[n, 4]`, in pixels, scaled with their image to `fitted_size`."""
    width, height = fitted_size(image, image_size)
    return boxes * np.tile([width / image.width, height / image.height], 2)


def from_fitted(boxes: np.ndarray, image: BoxedImage, image_size: int) -> np.ndarray:
    """Inverts `to_fitted` and clips the boxes to the image."""
    width, height = fitted_size(image, image_size)
    boxes = boxes / np.tile([width / image.width, height / image.height], 2)
    return np.clip(boxes, 0, np.tile([image.width, image.height], 2))


def training_batches(
    data: BoxData,
    preprocessing: Preprocessing,
    image_size: int,
    batch_size: int,
    steps: int,
    seed: int,
) -> tf.data.Dataset:
    """Returns batches of consecutive shuffled epochs, with randomly mirrored images.

    Args:
        data: Images with boxes; crowds are left out, images without a box are kept.
        preprocessing: Preprocessing, of which the normalisation is used.
        image_size: Side S of the squares, in pixels.
        batch_size: Batch size B.
        steps: Number of batches.
        seed: Seed of order and mirroring.

    Returns:
        Data set of `(images, {"boxes": ..., "classes": ...})`, float32 `[B, S, S, C]`, `[B, n, 4]`
        and `[B, n]`, as `RetinaNet.targets` takes them.
    """
    paths, sizes = _paths_and_sizes(data, image_size)
    padding = np.full([1, 4], _PADDING)
    image_boxes, image_classes = [], []
    for image in data.images:
        # Each image gets a row of padding, so that a batch always has one.
        kept = to_fitted(image.boxes[~image.crowd], image, image_size)
        image_boxes.append(np.concatenate([kept, padding]))
        image_classes.append(np.concatenate([image.classes[~image.crowd], padding[0, :1]]))
    lengths = [len(rows) for rows in image_boxes]
    boxes, classes = (
        tf.RaggedTensor.from_row_lengths(np.concatenate(rows).astype(np.float32), lengths)
        for rows in (image_boxes, image_classes)
    )

    def load(position, index):
        pixels = _fitted_pixels(paths[index], sizes[index], preprocessing)
        labels = {"boxes": boxes[index], "classes": classes[index]}
        mirrored = seeded.uniform([], tf.stack([seed, position])) < 0.5
        pixels, labels["boxes"] = tf.cond(
            mirrored, lambda: _mirror(pixels, **labels), lambda: (pixels, labels["boxes"])
        )
        return _squared(pixels, preprocessing, image_size), labels

    # Examples have seeds (seed, position), orders negative ones: no two draws share a seed.
    examples = shuffled_indices(len(paths), -1 - seed)
    loaded = examples.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    square = [image_size, image_size, preprocessing.channels]
    shapes = (square, {"boxes": [None, 4], "classes": [None]})
    padded = loaded.padded_batch(
        batch_size, shapes, (0.0, {"boxes": _PADDING, "classes": _PADDING}), drop_remainder=True
    )
    return padded.take(steps).prefetch(tf.data.AUTOTUNE)


def evaluation_batches(
    data: BoxData, preprocessing: Preprocessing, image_size: int, batch_size: int
) -> tf.data.Dataset:
    """Returns all images in order, float32 `[B, S, S, C]`; the last batch may be smaller."""
    paths, sizes = _paths_and_sizes(data, image_size)

    def load(index):
        pixels = _fitted_pixels(paths[index], sizes[index], preprocessing)
        return _squared(pixels, preprocessing, image_size)

    images = tf.data.Dataset.range(len(paths)).map(load, num_parallel_calls=tf.data.AUTOTUNE)
    return images.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def _paths_and_sizes(data: BoxData, image_size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns paths, string `[N]`, and fitted sizes (height, width), int32 `[N, 2]`."""
    sizes = [fitted_size(image, image_size)[::-1] for image in data.images]
    return tf.constant([image.path for image in data.images]), tf.constant(sizes, tf.int32)


def _fitted_pixels(path: tf.Tensor, size: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    return tf.image.resize(read_image(path, preprocessing), size, antialias=True)


def _mirror(pixels: tf.Tensor, boxes: tf.Tensor, classes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    xmin, ymin, xmax, ymax = tf.unstack(boxes, axis=1)
    width = tf.cast(tf.shape(pixels)[1], tf.float32)
    mirrored = tf.stack([width - xmax, ymin, width - xmin, ymax], axis=1)
    is_box = (classes != _PADDING)[:, tf.newaxis]
    return tf.reverse(pixels, [1]), tf.where(is_box, mirrored, boxes)


def _squared(pixels: tf.Tensor, preprocessing: Preprocessing, image_size: int) -> tf.Tensor:
    """Normalises, then pads with 0, the mean colour."""
    pixels = preprocessing.normalize(pixels)
    pixels = tf.image.pad_to_bounding_box(pixels, 0, 0, image_size, image_size)
    return tf.ensure_shape(pixels, [image_size, image_size, preprocessing.channels])

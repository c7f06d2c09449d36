"""The anchors of RetinaNet: the boxes it starts from, what they are trained on, and box offsets.

Lin et al., arXiv 1708.02002, section 4. A box is (xmin, ymin, xmax, ymax) in pixels.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

# What an anchor is trained on that has no class.
BACKGROUND, IGNORED = -1.0, -2.0
PER_CELL = 9

# At the strides 8 to 128 anchors have sides from 32 pixels.
_SIDE_PER_STRIDE = 4.0
_SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
_ASPECT_RATIOS = (0.5, 1.0, 2.0)
_POSITIVE_IOU, _NEGATIVE_IOU = 0.5, 0.4
# Brings offsets of matched boxes to a spread near 1, as in Faster R-CNN.
_UNIT = np.array([0.1, 0.1, 0.2, 0.2], np.float32)


def make_anchors(image_size: int, strides: Sequence[int]) -> np.ndarray:
    """Returns the anchors of square images, clipped to the image: float32 `[A, 4]`.

    Args:
        image_size: Side of the images, in pixels.
        strides: Strides of the maps. A map has a row and column of cells for each stride that has
            begun; cells come row by row, each with its nine anchors.
    """
    anchors = []
    ratios = np.sqrt(_ASPECT_RATIOS)  # Of width to height.
    for stride in strides:
        sides = _SIDE_PER_STRIDE * stride * np.array(_SCALES)[:, np.newaxis]
        half = np.stack([sides * ratios, sides / ratios], axis=-1).reshape(-1, 2) / 2
        centres = stride * (np.arange(-(-image_size // stride)) + 0.5)
        x, y = np.meshgrid(centres, centres)
        centre = np.stack([x, y], axis=-1).reshape(-1, 1, 2)
        anchors.append(np.concatenate([centre - half, centre + half], axis=-1).reshape(-1, 4))
    return np.clip(np.concatenate(anchors), 0, image_size).astype(np.float32)


def match(anchors: np.ndarray, boxes: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Returns what each anchor is trained on in an image.

    An anchor belongs to the box with which it overlaps most, if their intersection over union is at
    least 0.5. Below 0.4 it is background, and between them it does not count.

    Args:
        anchors: Anchors, float32 `[A, 4]`.
        boxes: Boxes, float32 `[n, 4]`, n at least 1. Padding has no area.
        classes: Their classes, float32 `[n]`.

    Returns:
        float32 `[A, 5]`: the box as offsets, 0 without one, and its class, `BACKGROUND` or
        `IGNORED`.
    """
    overlaps = _iou(anchors, boxes)
    closest = tf.argmax(overlaps, axis=1)
    overlap = tf.reduce_max(overlaps, axis=1)
    positive = overlap >= _POSITIVE_IOU
    # An anchor stands in for the boxes of others, which may be padding: its offsets are 0.
    matched = tf.where(positive[:, tf.newaxis], tf.gather(boxes, closest), anchors)
    labels = tf.where(overlap < _NEGATIVE_IOU, BACKGROUND, IGNORED)
    labels = tf.where(positive, tf.gather(classes, closest), labels)
    return tf.concat([to_offsets(anchors, matched), labels[:, tf.newaxis]], axis=1)


def to_offsets(anchors: np.ndarray, boxes: tf.Tensor) -> tf.Tensor:
    """Returns boxes `[..., A, 4]` as offsets: of the centre, and the logarithm of width, height."""
    centre, size = _centre_and_size(anchors)
    box_centre, box_size = _centre_and_size(boxes)
    offsets = tf.concat([(box_centre - centre) / size, tf.math.log(box_size / size)], axis=-1)
    return offsets / _UNIT


def from_offsets(anchors: np.ndarray, offsets: tf.Tensor) -> tf.Tensor:
    """Inverts `to_offsets`."""
    centre, size = _centre_and_size(anchors)
    offsets *= _UNIT
    box_centre = centre + size * offsets[..., :2]
    half = size * tf.exp(offsets[..., 2:]) / 2
    return tf.concat([box_centre - half, box_centre + half], axis=-1)


def _centre_and_size(boxes: np.ndarray | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low


def _iou(anchors: np.ndarray, boxes: tf.Tensor) -> tf.Tensor:
    """Returns the intersection over union of all pairs: `[A, 4]`, `[n, 4]` -> `[A, n]`."""
    anchors = anchors[:, np.newaxis]
    low = tf.maximum(anchors[..., :2], boxes[:, :2])
    high = tf.minimum(anchors[..., 2:], boxes[:, 2:])
    intersection = tf.reduce_prod(tf.maximum(high - low, 0.0), axis=-1)
    areas = (tf.reduce_prod(each[..., 2:] - each[..., :2], axis=-1) for each in (anchors, boxes))
    return intersection / (sum(areas) - intersection)

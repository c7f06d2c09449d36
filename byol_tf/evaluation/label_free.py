"""Measures of a representation that need no labels (Wang & Isola 2020, arXiv 2005.10242)."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from byol_tf.data import augmented_dataset, evaluation_dataset
from byol_tf.errors import UserError
from byol_tf.evaluation import features
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.models.collapse import effective_rank, spread
from byol_tf.models.losses import regression_loss
from byol_tf.sources import Source

_BATCH_SIZE = 256
_ROWS_AT_ONCE = 256  # Distances of this many to 50,000 others are 50 MB.


@dataclasses.dataclass(frozen=True)
class LabelFree:
    """How a representation treats images, whatever they show.

    Attributes:
        alignment: of two random crops of each image, in [0, 4]; 0 where they are one point.
        uniformity: of centre crops, in [-8, 0]; near -4 on an even sphere of many dimensions, 0 in
            a collapse.
        spread: of centre crops; 1 on an even sphere, 0 in a collapse.
        effective_rank: of centre crops; between 1 and min(num_images - 1, D).
        num_images: that were measured.
    """

    alignment: float
    uniformity: float
    spread: float
    effective_rank: float
    num_images: int


def label_free_measures(
    encoder: Callable[..., tf.Tensor],
    source: Source,
    preprocessing: Preprocessing,
    seed: int = 0,
    limit: int | None = 10_000,
) -> LabelFree:
    """Measures an encoder on images, in three passes over them.

    Args:
        encoder: as `features.extract` takes it.
        source: the images; labels are not looked at.
        preprocessing: of the centre crops.
        seed: of the random crops and flips.
        limit: this many images at most, evenly spaced over the source; uniformity costs the square
            of their number. None takes all.

    Raises:
        UserError: fewer than two images; representations that `features.extract` refuses.
    """

    images = (source, preprocessing, _BATCH_SIZE)
    datasets = [
        evaluation_dataset(*images, limit=limit),
        augmented_dataset(*images, 2 * seed, limit=limit),
        augmented_dataset(*images, 2 * seed + 1, limit=limit),
    ]
    passes = features.align([features.extract(encoder, dataset) for dataset in datasets])
    centre, view_1, view_2 = (aligned.representations for aligned in passes)
    return LabelFree(
        alignment=alignment(view_1, view_2),
        uniformity=uniformity(centre),
        spread=float(spread(centre)),
        effective_rank=effective_rank(centre),
        num_images=len(centre),
    )


def alignment(view_1: np.ndarray, view_2: np.ndarray) -> float:
    """Mean squared distance of the two views of an image, l2-normalised (section 4.1, α = 2).

    Args:
        view_1, view_2: float `[N, D]`, row by row of the same images.

    Returns:
        In [0, 4].
    """
    return float(tf.reduce_mean(regression_loss(view_1, view_2)))


def uniformity(representations: np.ndarray) -> float:
    """Log of the mean of exp(-2 ‖x - y‖²) over pairs of images, l2-normalised (section 4.1, t = 2).

    Args:
        representations: float `[N, D]`, N at least 2; memory grows with N, not with its square.

    Returns:
        In [-8, 0].

    Raises:
        UserError: fewer than two images.
    """
    if len(representations) < 2:
        raise UserError("there is one image, and uniformity is about pairs; give two or more.")
    x = tf.math.l2_normalize(tf.cast(representations, tf.float32), axis=-1).numpy()
    squares = np.square(x).sum(axis=1)  # 1, but 0 of a zero vector.
    total = 0.0
    for start in range(0, len(x), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        later = slice(start, None)
        distances = squares[rows, np.newaxis] + squares[later] - 2 * x[rows] @ x[later].T
        # Above the diagonal is each pair once.
        total += np.triu(np.exp(-2 * np.maximum(distances, 0)), k=1).sum(dtype=np.float64)
    return math.log(total / math.comb(len(x), 2))

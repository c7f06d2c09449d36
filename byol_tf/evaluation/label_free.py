"""Measures of a representation that need no labels (Wang & Isola 2020, arXiv 2005.10242).

They tell whether an encoder has collapsed, not which of two is better: `rotation` does that.
"""

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
    """Measures of a representation that do not depend on labels.

    Training logs two figures of the same kind from other vectors: `projection_std` is the std of
    the projections of training batches, `effective_rank` the rank of the representations of at most
    256 training images.

    Attributes:
        alignment: Mean squared distance of two random crops of an image, in [0, 4]; 0 where both
            give the same point, as after a collapse.
        uniformity: Uniformity of centre crops, in [-8, 0]; near -4 for points spread evenly over a
            sphere of many dimensions, 0 after a collapse.
        representation_std: Feature standard deviation of centre crops; 1 for points spread evenly
            over the sphere, 0 after a collapse.
        representation_rank: Effective rank of centre crops, between 1 and min(num_images - 1, D).
        num_images: Number of images measured.
    """

    alignment: float
    uniformity: float
    representation_std: float
    representation_rank: float
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
        encoder: Encoder as `features.extract` takes it.
        source: Images; labels are not used.
        preprocessing: Preprocessing of the centre crops.
        seed: Seed of the random crops and flips.
        limit: Maximum number of images, evenly spaced over the source; the cost of uniformity grows
            with its square. None takes all.

    Raises:
        UserError: There are fewer than two images, or what `features.extract` raises.
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
        representation_std=float(spread(centre)),
        representation_rank=effective_rank(centre),
        num_images=len(centre),
    )


def alignment(view_1: np.ndarray, view_2: np.ndarray) -> float:
    """Returns the mean squared distance of l2-normalised views of an image (section 4.1, α = 2).

    Args:
        view_1, view_2: Representations, float `[N, D]`; equal rows are views of the same image.

    Returns:
        A number in [0, 4].
    """
    return float(tf.reduce_mean(regression_loss(view_1, view_2)))


def uniformity(representations: np.ndarray) -> float:
    """Returns the log of the mean of exp(-2 ‖x - y‖²) over pairs of images (section 4.1, t = 2).

    Args:
        representations: Representations, float `[N, D]`, N at least 2; they are l2-normalised here.
            Memory grows with N, not with its square.

    Returns:
        A number in [-8, 0].

    Raises:
        UserError: There are fewer than two images.
    """
    if len(representations) < 2:
        raise UserError("there is one image, but uniformity compares pairs; give two or more.")
    x = tf.math.l2_normalize(tf.cast(representations, tf.float32), axis=-1).numpy()
    squares = np.square(x).sum(axis=1)  # 1, or 0 for a zero vector.
    total = 0.0
    for start in range(0, len(x), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        later = slice(start, None)
        distances = squares[rows, np.newaxis] + squares[later] - 2 * x[rows] @ x[later].T
        # Each pair stands above the diagonal once.
        total += np.triu(np.exp(-2 * np.maximum(distances, 0)), k=1).sum(dtype=np.float64)
    return math.log(total / math.comb(len(x), 2))

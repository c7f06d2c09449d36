"""The rotation probe: whether a linear classifier on frozen features tells how an image is turned.

It needs no labels, and its accuracy orders encoders as accuracy with labels does (Reed et al. 2021,
arXiv 2009.07724). Alignment and uniformity do not: docs/results/label_free.md.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from byol_tf.data import evaluation_dataset
from byol_tf.errors import UserError
from byol_tf.evaluation import features
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.sources import Source

TURNS = 4  # Quarter turns: 0, 90, 180 and 270 degrees; chance is 1 / 4.
# Below this, the images drawn say too little about those not drawn for an interval to hold.
MIN_IMAGES = 30
_BATCH_SIZE = 64  # Images; the encoder sees four times as many.
_FOLDS = 5
_RIDGE = 1e-2  # Of the mean variance of the features.


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over images.

    Attributes:
        value: The mean.
        low, high: 95 % interval over draws of the images: all possible values where there are fewer
            than `MIN_IMAGES`.
    """

    value: float
    low: float
    high: float


def encode_turns(
    encoder: Callable[..., tf.Tensor],
    source: Source,
    preprocessing: Preprocessing,
    limit: int | None = None,
) -> features.Features:
    """Encodes the centre crop of each image in four orientations.

    Args:
        encoder: Encoder as `features.extract` takes it.
        source: Images; labels are not used.
        preprocessing: Preprocessing of the centre crops.
        limit: Maximum number of images, evenly spaced over the source. None takes all.

    Returns:
        Features whose representations are `[N, 4, D]`, turned by 0, 1, 2 and 3 quarter turns.

    Raises:
        UserError: What `features.extract` raises.
    """

    def encode_all(images, training=False):
        turned = [encoder(tf.image.rot90(images, turn), training=training) for turn in range(TURNS)]
        return tf.concat(turned, axis=1)

    dataset = evaluation_dataset(source, preprocessing, _BATCH_SIZE, limit=limit)
    encoded = features.extract(encode_all, dataset)
    by_turn = encoded.representations.reshape(len(encoded.keys), TURNS, -1)
    return dataclasses.replace(encoded, representations=by_turn)


def accuracy(turns: features.Features) -> Estimate:
    """Returns the probe's accuracy on the images of `encode_turns`, in [0, 1].

    Raises:
        UserError: There are fewer than two images.
    """
    return _mean(hits(turns.representations).mean(axis=1), 0.0, 1.0)


def loss(candidate: features.Features, baseline: features.Features) -> Estimate:
    """Returns by how much the probe is less accurate on a candidate than on a baseline.

    Both are probed on the same images, so what makes an image hard for both does not widen the
    interval.

    Args:
        candidate, baseline: Images of `encode_turns`; those that only one has are left out.

    Returns:
        The loss, in [-1, 1].

    Raises:
        UserError: There are fewer than two images, or what `features.align` raises.
    """
    ours, theirs = (
        hits(turns.representations).mean(axis=1) for turns in features.align([candidate, baseline])
    )
    return _mean(theirs - ours, -1.0, 1.0)


def hits(turns: np.ndarray) -> np.ndarray:
    """Returns which turns of which images the probe tells, each by a fit to the other images.

    The probe is a ridge regression onto the four turns. Cross-validation in five folds uses every
    image for the test, and never for its own fit.

    Args:
        turns: Representations `[N, 4, D]`, N at least 2.

    Returns:
        bool `[N, 4]`.

    Raises:
        UserError: There are fewer than two images.
    """
    if len(turns) < 2:
        raise UserError(
            "there is one image, and the rotation probe tests on others than it fits; give two or "
            "more."
        )
    fold = np.arange(len(turns)) % min(_FOLDS, len(turns))
    told = np.zeros([len(turns), TURNS], bool)
    for test in range(fold.max() + 1):
        predict = _fit(turns[fold != test])
        told[fold == test] = predict(turns[fold == test]) == np.arange(TURNS)
    return told


def _fit(turns: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that predicts turns, `[n, 4, D]` -> int `[n, 4]`."""
    x = turns.reshape(-1, turns.shape[-1]).astype(np.float64)
    mean = x.mean(axis=0)
    x -= mean
    covariance = x.T @ x / len(x)
    # Of the variance, so that the probe does not depend on the scale of the features.
    ridge = _RIDGE * max(np.trace(covariance) / len(covariance), np.finfo(np.float64).tiny)
    targets = np.tile(np.eye(TURNS) - 1 / TURNS, (len(turns), 1))
    regularized = covariance + ridge * np.eye(len(covariance))
    kernel = np.linalg.solve(regularized, x.T @ targets / len(x))
    return lambda new: np.argmax((new - mean) @ kernel, axis=-1)


def _mean(values: np.ndarray, lowest: float, highest: float) -> Estimate:
    mean = float(values.mean())
    if len(values) < MIN_IMAGES:
        return Estimate(mean, lowest, highest)
    half = 1.96 * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Estimate(mean, max(mean - half, lowest), min(mean + half, highest))

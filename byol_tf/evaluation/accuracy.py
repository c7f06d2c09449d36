"""Classification metrics of the paper's transfer table (table 3), and a confidence interval."""

import math

import numpy as np


def top_1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Returns the fraction of examples classified correctly; both arguments are int `[N]`."""
    return float(np.mean(predicted == labels))


def mean_per_class(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Returns the accuracy of each class, averaged over the classes that occur in `labels`.

    Args:
        predicted: Predicted classes, int `[N]`.
        labels: True classes, int `[N]`, at least 0.

    Returns:
        A number in [0, 1].
    """
    hits = np.bincount(labels, weights=predicted == labels)
    counts = np.bincount(labels)
    return float(np.mean(hits[counts > 0] / counts[counts > 0]))


def voc07_map(scores: np.ndarray, relevance: np.ndarray) -> float:
    """Returns the mean of `voc07_ap` over the classes that have a positive example.

    Args:
        scores: Scores, float `[N, C]`, higher where the class is more likely present.
        relevance: Truth, int `[N, C]`: 1 where the class is present, 0 where it is absent, -1 where
            only difficult objects of it are present; those examples are not ranked for the class.

    Returns:
        A number in [0, 1].
    """
    columns = np.flatnonzero((relevance == 1).any(axis=0))
    ranked = relevance >= 0
    return float(
        np.mean([voc07_ap(scores[ranked[:, c], c], relevance[ranked[:, c], c]) for c in columns])
    )


def voc07_ap(scores: np.ndarray, relevant: np.ndarray) -> float:
    """Returns VOC2007's average precision (Everingham et al. 2010, section 4.2).

    This is the mean, over the recalls 0, 0.1, ..., 1, of the best precision at that recall or a
    higher one. Ties rank in the order given, as in the devkit.

    Args:
        scores: Scores, float `[N]`.
        relevant: Truth, int or bool `[N]`, at least one of them true.

    Returns:
        A number in [0, 1].
    """
    hits = np.cumsum(relevant[np.argsort(-scores, kind="stable")].astype(np.int64))
    precision = hits / np.arange(1, len(hits) + 1)
    best_from = np.maximum.accumulate(precision[::-1])[::-1]
    # recall >= k / 10, in integers: 3 of 10 is a recall of 0.3, but 3 * 0.1 > 0.3 in floats.
    first = np.searchsorted(10 * hits, np.arange(11) * hits[-1])
    return float(np.mean(best_from[first]))


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
    """Returns the 95 % confidence interval of `hits` / `total` (Wilson 1927)."""
    z = 1.959964
    centre = (hits + z**2 / 2) / (total + z**2)
    half = z / (total + z**2) * math.sqrt(hits * (total - hits) / total + z**2 / 4)
    return max(0.0, centre - half), min(1.0, centre + half)

"""How well classes were predicted: the three metrics of the paper's transfer table (table 3)."""

import math

import numpy as np


def top_1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Part of the examples whose class was predicted, in [0, 1]: int `[N]`, int `[N]`."""
    return float(np.mean(predicted == labels))


def mean_per_class(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Unweighted mean, over the classes that `labels` holds, of each one's part predicted.

    Args:
        predicted: int `[N]`.
        labels: int `[N]`, from 0 on.

    Returns:
        In [0, 1].
    """
    hits = np.bincount(labels, weights=predicted == labels)
    counts = np.bincount(labels)
    return float(np.mean(hits[counts > 0] / counts[counts > 0]))


def voc07_map(scores: np.ndarray, relevance: np.ndarray) -> float:
    """Mean over the classes of `voc07_ap`; classes without a positive are left out.

    Args:
        scores: float `[N, C]`, higher where the class is more likely there.
        relevance: int `[N, C]`: 1 the class is there, 0 it is not, -1 only difficult objects of it
            are, which its ranking leaves out.

    Returns:
        In [0, 1].
    """
    columns = np.flatnonzero((relevance == 1).any(axis=0))
    ranked = relevance >= 0
    return float(
        np.mean([voc07_ap(scores[ranked[:, c], c], relevance[ranked[:, c], c]) for c in columns])
    )


def voc07_ap(scores: np.ndarray, relevant: np.ndarray) -> float:
    """VOC2007's average precision (Everingham et al. 2010, section 4.2).

    The mean, over the recalls 0, 0.1, ..., 1, of the best precision at that recall or a higher one.
    Of equal scores the first ranks higher, as in the devkit.

    Args:
        scores: float `[N]`.
        relevant: int or bool `[N]`, at least one of them true.

    Returns:
        In [0, 1].
    """
    hits = np.cumsum(relevant[np.argsort(-scores, kind="stable")].astype(np.int64))
    precision = hits / np.arange(1, len(hits) + 1)
    best_from = np.maximum.accumulate(precision[::-1])[::-1]
    # recall >= k / 10 in whole numbers: 3 of 10 are a recall of 0.3, which 3 * 0.1 exceeds.
    first = np.searchsorted(10 * hits, np.arange(11) * hits[-1])
    return float(np.mean(best_from[first]))


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
    """95 % confidence interval of a proportion."""
    z = 1.959964
    centre = (hits + z**2 / 2) / (total + z**2)
    half = z / (total + z**2) * math.sqrt(hits * (total - hits) / total + z**2 / 4)
    return max(0.0, centre - half), min(1.0, centre + half)

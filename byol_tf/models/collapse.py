"""Collapse measures: feature standard deviation and effective rank."""

import numpy as np
import tensorflow as tf


def spread(representations: tf.Tensor) -> tf.Tensor:
    """Computes the std of l2-normalised vectors' coordinates, times √D (Chen & He 2021, 4.1).

    Args:
        representations: Floating `[B, D]`.

    Returns:
        float32 scalar: 1 if they fill the sphere evenly, 0 if all are the same point.
    """
    normalized = tf.math.l2_normalize(tf.cast(representations, tf.float32), axis=-1)
    std = tf.reduce_mean(tf.math.reduce_std(normalized, axis=0))
    return std * representations.shape[-1] ** 0.5


def effective_rank(representations: np.ndarray) -> float:
    """Computes exp(entropy) of the centred vectors' singular values (Roy & Vetterli 2007).

    Args:
        representations: Floating `[M, D]`.

    Returns:
        A number between 1 (a line; also no variance) and min(M - 1, D) (all directions equal).
    """
    centred = representations.astype(np.float64) - representations.mean(axis=0)
    singular = np.linalg.svd(centred, compute_uv=False)
    shares = singular / max(singular.sum(), np.finfo(np.float64).tiny)
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))

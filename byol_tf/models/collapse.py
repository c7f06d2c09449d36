"""How much of their space representations fill: what tells a collapse from a healthy network."""

import numpy as np
import tensorflow as tf


def spread(representations: tf.Tensor) -> tf.Tensor:
    """Std of the coordinates of l2-normalised vectors, times √D (Chen & He 2021, section 4.1).

    Args:
        representations: floating `[B, D]`.

    Returns:
        float32 scalar: 1 where they fill the sphere evenly, 0 where all are mapped to one point.
    """
    normalized = tf.math.l2_normalize(tf.cast(representations, tf.float32), axis=-1)
    std = tf.reduce_mean(tf.math.reduce_std(normalized, axis=0))
    return std * representations.shape[-1] ** 0.5


def effective_rank(representations: np.ndarray) -> float:
    """exp of the entropy of the centred representations' singular values (Roy & Vetterli 2007).

    Args:
        representations: `[M, D]`.

    Returns:
        Between 1 (a line; also 0 variance) and min(M - 1, D) (all directions alike).
    """
    centred = representations.astype(np.float64) - representations.mean(axis=0)
    singular = np.linalg.svd(centred, compute_uv=False)
    shares = singular / max(singular.sum(), np.finfo(np.float64).tiny)
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))

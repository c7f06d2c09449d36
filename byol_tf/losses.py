"""The BYOL loss (paper equation 2)."""

import tensorflow as tf


def regression_loss(prediction: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Squared distance of the l2-normalised vectors: ‖q̄ - z̄′‖² = 2 - 2 cos(q, z′).

    Computed in float32 whatever comes in: under mixed precision the difference of two unit vectors is where
    a short mantissa would hurt. The norm is √max(‖x‖², 1e-12), as in the authors' code, so a zero vector
    gives a finite loss and gradient.

    Args:
        prediction: q_θ(z_θ), `[B, D]`, floating.
        target: z′_ξ, `[B, D]`, floating. The caller keeps gradients from it.

    Returns:
        float32 `[B]` in [0, 4]; near 2 for random directions. 
    """
    prediction = tf.math.l2_normalize(tf.cast(prediction, tf.float32), axis=-1, epsilon=1e-12)
    target = tf.math.l2_normalize(tf.cast(target, tf.float32), axis=-1, epsilon=1e-12)
    return tf.reduce_sum(tf.math.squared_difference(prediction, target), axis=-1)  # [B]


def symmetric_loss(prediction_1, target_2, prediction_2, target_1) -> tf.Tensor:
    """Both directions summed, mean over the batch: each view predicts the other's target projection.

    Args:
        prediction_1, prediction_2: online predictions of views 1 and 2, `[B, D]`.
        target_2, target_1: target projections of views 2 and 1, `[B, D]`.

    Returns:
        float32 scalar in [0, 8]; near 4 for random directions.
    """
    return tf.reduce_mean(
        regression_loss(prediction_1, target_2) + regression_loss(prediction_2, target_1)
    )

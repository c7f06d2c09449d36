"""The losses of the methods: BYOL's regression (paper equation 2), SimCLR's NT-Xent, VICReg's."""

from collections.abc import Sequence

import tensorflow as tf


def regression_loss(prediction: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Computes the squared distance of l2-normalised vectors: ‖q̄ - z̄′‖² = 2 - 2 cos(q, z′).

    The computation is in float32 for every input type: under mixed precision a short mantissa would
    hurt the difference of two unit vectors. The norm is √max(‖x‖², 1e-12), as in the authors' code,
    so a zero vector gives a finite loss and gradient.

    Args:
        prediction: q_θ(z_θ), floating `[B, D]`.
        target: z′_ξ, floating `[B, D]`; the caller stops its gradient.

    Returns:
        float32 `[B]` in [0, 4]; near 2 for random directions.
    """
    prediction = tf.math.l2_normalize(tf.cast(prediction, tf.float32), axis=-1, epsilon=1e-12)
    target = tf.math.l2_normalize(tf.cast(target, tf.float32), axis=-1, epsilon=1e-12)
    return tf.reduce_sum(tf.math.squared_difference(prediction, target), axis=-1)  # [B]


def symmetric_loss(
    prediction_1: tf.Tensor,
    target_2: tf.Tensor,
    prediction_2: tf.Tensor,
    target_1: tf.Tensor,
    small_predictions: Sequence[tf.Tensor] = (),
) -> tf.Tensor:
    """Computes the batch mean of `regression_loss`, summed over both directions.

    Each view predicts the target projection of the other. With multi-crop each of N small crops
    predicts those of both views: the loss is then twice the mean over all 2 + 2 N pairs, which
    without small crops is the sum of two.

    Args:
        prediction_1, prediction_2: Online predictions of views 1 and 2, `[B, D]`.
        target_2, target_1: Target projections of views 2 and 1, `[B, D]`.
        small_predictions: Online predictions of N small crops, `[B, D]` each.

    Returns:
        float32 scalar in [0, 8]; near 4 for random directions.
    """
    distances = regression_loss(prediction_1, target_2) + regression_loss(prediction_2, target_1)
    if not small_predictions:
        return tf.reduce_mean(distances)
    for prediction in small_predictions:
        distances += regression_loss(prediction, target_1) + regression_loss(prediction, target_2)
    return tf.reduce_mean(distances) / (1 + len(small_predictions))


def nt_xent_loss(projection_1: tf.Tensor, projection_2: tf.Tensor, temperature: float) -> tf.Tensor:
    """Computes SimCLR's NT-Xent (arXiv 2002.05709, equation 1 and algorithm 1).

    This is the normalised temperature-scaled cross-entropy: each of the 2B views has to tell its
    image's other view from the 2B - 2 views of other images, by cosine similarity. It is computed
    in float32, like `regression_loss`. Under a strategy, B counts the images of all replicas, and a
    replica returns the mean over its own 2b views.

    Args:
        projection_1, projection_2: Projections of the two views, float `[b, P]`; row i of both is
            the same image.
        temperature: Divisor of the similarities, above 0.

    Returns:
        float32 scalar; log(2B - 1) if all similarities are equal.
    """
    z_1, z_2 = (
        tf.math.l2_normalize(tf.cast(projection, tf.float32), axis=-1, epsilon=1e-12)
        for projection in (projection_1, projection_2)
    )
    all_1, all_2, first = _of_all_replicas(z_1, z_2)
    own = first + tf.range(tf.shape(z_1)[0])  # Rows of these images among all.
    # A view is not its own candidate.
    own_view = tf.one_hot(own, tf.shape(all_1)[0], on_value=-float("inf"), off_value=0.0)

    def cross_entropy(queries, same_view, other_view):
        logits_same = tf.matmul(queries, same_view, transpose_b=True) / temperature + own_view
        logits_other = tf.matmul(queries, other_view, transpose_b=True) / temperature
        # The correct class is the same image in the other view.
        return tf.nn.sparse_softmax_cross_entropy_with_logits(
            own, tf.concat([logits_other, logits_same], axis=1)
        )

    return tf.reduce_mean(cross_entropy(z_1, all_1, all_2) + cross_entropy(z_2, all_2, all_1)) / 2


def vicreg_loss(
    projection_1: tf.Tensor,
    projection_2: tf.Tensor,
    invariance_weight: float,
    variance_weight: float,
    covariance_weight: float,
) -> tf.Tensor:
    """Computes VICReg's loss (arXiv 2105.04906, section 4.1 and algorithm 1), in float32.

    It is λ s + μ v + ν c: s the mean squared difference of the two views' projections; v the mean
    over the variables of max(0, 1 - √(variance + 1e-4)), averaged over the views (as in the
    authors' code; the paper sums them); c the sum of the squared covariances of different
    variables, divided by their number, summed over the views. Under a strategy, v and c are those
    of all replicas' images.

    Args:
        projection_1, projection_2: Projections of the two views, float `[b, P]`; row i of both is
            the same image.
        invariance_weight: λ.
        variance_weight: μ.
        covariance_weight: ν.

    Returns:
        float32 scalar.
    """
    z_1, z_2 = (tf.cast(projection, tf.float32) for projection in (projection_1, projection_2))
    invariance = tf.reduce_mean(tf.math.squared_difference(z_1, z_2))
    all_1, all_2, _ = _of_all_replicas(z_1, z_2)
    hinges, covariances = zip(
        _hinge_and_covariance(all_1), _hinge_and_covariance(all_2), strict=True
    )
    return (
        invariance_weight * invariance
        + variance_weight * (hinges[0] + hinges[1]) / 2
        + covariance_weight * (covariances[0] + covariances[1])
    )


def _hinge_and_covariance(z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns VICReg's variance and covariance terms of one view `[B, P]`, scalars."""
    count, size = tf.unstack(tf.cast(tf.shape(z), tf.float32))
    centred = z - tf.reduce_mean(z, axis=0)
    covariance = tf.matmul(centred, centred, transpose_a=True) / (count - 1)  # [P, P]
    deviation = tf.sqrt(tf.linalg.diag_part(covariance) + 1e-4)
    hinge = tf.reduce_mean(tf.nn.relu(1 - deviation))
    others = tf.linalg.set_diag(covariance, tf.zeros_like(deviation))
    return hinge, tf.reduce_sum(tf.square(others)) / size


def _of_all_replicas(
    z_1: tf.Tensor, z_2: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, int | tf.Tensor]:
    """Returns the rows of all replicas, `[B, P]` each, and the index of this replica's first row.

    Each replica pads its rows with zeros, and the results are summed over the replicas: unlike
    all_gather, that compiles with XLA. The gradient of the sum is a sum, so a replica's projections
    also get their part in the others' losses.
    """
    context = tf.distribute.get_replica_context()
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if context is None or replicas == 1:
        return z_1, z_2, 0
    size = tf.shape(z_1)[0]
    first = context.replica_id_in_sync_group * size
    place = [[first, (replicas - 1) * size - first], [0, 0]]
    all_1, all_2 = context.all_reduce(
        tf.distribute.ReduceOp.SUM, [tf.pad(z_1, place), tf.pad(z_2, place)]
    )
    return all_1, all_2, first

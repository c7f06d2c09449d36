"""BatchNorm's moving statistics without the bias of their first value, as in the authors' code.

Keras starts a moving mean at 0 and a moving variance at 1 and moves them by 1 - d of each batch, so
that after k batches d^k of the start is left in them: with d = 0.9 and two views a step, 12 % after
10 steps; with Keras's own d = 0.99, 82 %. An encoder that is used so early maps images by
statistics that it never saw. Haiku, which the authors use, divides that share out:

    h_k = d h_{k-1} + (1 - d) x_k,   h_0 = 0        average = h_k / (1 - d^k)

Here the layers stay Keras's own, of any origin, and each training step is corrected at its end.
With A the average before a step, n batches in each step and v what the layer has made of A, the
average after step s (from 1) is A + (v - A) / (1 - d^(n s)): both formulas weigh the batches alike.
Training itself never reads the statistics.
"""

from collections.abc import Iterable, Sequence

import keras
import tensorflow as tf

from byol_tf import keras_compat


def batch_norms(network: keras.layers.Layer) -> list[keras.layers.BatchNormalization]:
    """Returns the BatchNorm layers in `network`, at any depth."""
    return [
        layer
        for layer in keras_compat.sublayers(network)
        if isinstance(layer, keras.layers.BatchNormalization)
    ]


def read(layers: Iterable[keras.layers.BatchNormalization]) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Returns the moving mean and variance of each layer, `[C]` each, as they are now."""
    return [
        (tf.identity(_mean(layer)), tf.identity(_variance(layer)))  # Not the variable: it moves.
        for layer in layers
    ]


def put_back(
    layers: Iterable[keras.layers.BatchNormalization],
    before: Sequence[tuple[tf.Tensor, tf.Tensor]],
) -> None:
    """Sets the statistics to the result of an earlier `read`."""
    for layer, (mean, variance) in zip(layers, before, strict=True):
        _mean(layer).assign(mean)
        _variance(layer).assign(variance)


def debias(
    layers: Iterable[keras.layers.BatchNormalization],
    before: Sequence[tuple[tf.Tensor, tf.Tensor]],
    updates: tf.Tensor,
) -> None:
    """Corrects the statistics after a training step.

    A layer that the step did not train keeps its statistics exactly.

    Args:
        layers: BatchNorm layers.
        before: Result of `read` from before the step.
        updates: n s, the number of batches that each layer has seen since its start, this step's
            included, scalar.
    """
    for layer, (mean, variance) in zip(layers, before, strict=True):
        share = 1.0 - tf.pow(tf.constant(layer.momentum, tf.float32), tf.cast(updates, tf.float32))
        _mean(layer).assign(mean + (_mean(layer) - mean) / share)
        # Rounding must not make the variance of a channel that is always 0 negative.
        _variance(layer).assign(tf.maximum(variance + (_variance(layer) - variance) / share, 0.0))


def _mean(layer: keras.layers.BatchNormalization) -> tf.Variable:
    return keras_compat.native(layer.moving_mean)


def _variance(layer: keras.layers.BatchNormalization) -> tf.Variable:
    return keras_compat.native(layer.moving_variance)

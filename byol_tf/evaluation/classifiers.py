"""Linear classifiers on frozen representations: softmax regression, several learning rates at once.

The optimizer is that of linear evaluation (paper appendix C.1): SGD with Nesterov momentum, without
regularisation, with a cosine learning rate. Representations are not standardised: logits =
representation · kernel + bias.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from absl import logging

_MOMENTUM = 0.9
_ROWS_AT_ONCE = 8192


@dataclasses.dataclass(frozen=True)
class Classifiers:
    """L linear classifiers, one per learning rate.

    Attributes:
        kernel: Weights, float32 `[D, L, C]`.
        bias: Biases, float32 `[L, C]`.
    """

    kernel: np.ndarray
    bias: np.ndarray

    def hits(self, representations: np.ndarray, labels: np.ndarray, top: int) -> np.ndarray:
        """Returns whether each label is among the `top` best classes.

        Shapes: `[N, D]`, `[N]` -> bool `[N, L]`.
        """
        parts = []
        for start in range(0, len(labels), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            logits = np.tensordot(representations[rows], self.kernel, axes=1) + self.bias
            ranked = tf.math.top_k(logits, top).indices  # Ties go to the lower label.
            parts.append((ranked == labels[rows, np.newaxis, np.newaxis]).numpy().any(axis=-1))
        return np.concatenate(parts)


def train_classifiers(
    views: Sequence[np.ndarray],
    labels: np.ndarray,
    rows: np.ndarray,
    base_lrs: Sequence[float],
    *,
    epochs: int,
    batch_size: int,
    seed: int,
) -> Classifiers:
    """Trains one linear classifier per learning rate, all on the same batches.

    Weights start at zero: the problem is convex and needs no random start.

    Args:
        views: V arrays of representations, float32 `[N, D]`; epoch e trains on view e mod V.
        labels: Labels, int32 `[N]` in [0, C).
        rows: Positions of the examples to train on, int `[M]`.
        base_lrs: L learning rates for a batch of 256.
        epochs, batch_size, seed: Settings as in `linear.fit_linear`.
    """
    batch_size = min(batch_size, len(rows))
    steps = len(rows) // batch_size
    num_classes = int(labels.max()) + 1
    peak_lrs = tf.constant(base_lrs, tf.float32) * (batch_size / 256)
    kernel = tf.zeros([views[0].shape[1], len(base_lrs), num_classes])
    bias = tf.zeros([len(base_lrs), num_classes])
    state = (kernel, bias, tf.zeros_like(kernel), tf.zeros_like(bias))
    labels = tf.constant(labels)
    rng = np.random.default_rng(seed)
    for epoch in range(epochs):
        order = rng.permutation(rows)[: steps * batch_size]
        progress = np.arange(epoch * steps, (epoch + 1) * steps) / (epochs * steps)
        decay = 0.5 * (1.0 + np.cos(math.pi * progress))
        state = _train_epoch(
            state,
            tf.convert_to_tensor(views[epoch % len(views)]),
            labels,
            tf.constant(order.reshape(steps, batch_size), tf.int32),
            tf.constant(decay, tf.float32)[:, tf.newaxis] * peak_lrs,
        )
        logging.log_every_n_seconds(logging.INFO, "linear epoch %d of %d", 10, epoch + 1, epochs)
    return Classifiers(state[0].numpy(), state[1].numpy())


@tf.function(autograph=False)
def _train_epoch(state, representations, labels, batches, lrs):
    """Trains for one epoch: batches int32 `[steps, B]`, learning rates `[steps, L]`."""
    num_lrs, num_classes = state[1].shape

    def step(index, kernel, bias, kernel_momentum, bias_momentum):
        rows = batches[index]
        x = tf.gather(representations, rows)  # [B, D]
        # One product for all learning rates: they share x.
        logits = x @ tf.reshape(kernel, [-1, num_lrs * num_classes])
        logits = tf.reshape(logits, [-1, num_lrs, num_classes]) + bias
        targets = tf.one_hot(tf.gather(labels, rows), num_classes)[:, tf.newaxis]
        # ∂ mean cross-entropy / ∂ logits
        error = (tf.nn.softmax(logits) - targets) / tf.cast(tf.size(rows), tf.float32)
        flat_error = tf.reshape(error, [-1, num_lrs * num_classes])
        kernel_gradient = tf.reshape(tf.matmul(x, flat_error, transpose_a=True), tf.shape(kernel))
        bias_gradient = tf.reduce_sum(error, axis=0)
        # As in optax.sgd, the learning rate stays outside the momentum buffer.
        lr = lrs[index][:, tf.newaxis]
        kernel_momentum = _MOMENTUM * kernel_momentum + kernel_gradient
        bias_momentum = _MOMENTUM * bias_momentum + bias_gradient
        kernel -= lr * (_MOMENTUM * kernel_momentum + kernel_gradient)
        bias -= lr * (_MOMENTUM * bias_momentum + bias_gradient)
        return index + 1, kernel, bias, kernel_momentum, bias_momentum

    steps = tf.shape(batches)[0]
    return tf.while_loop(lambda index, *_: index < steps, step, (0, *state))[1:]

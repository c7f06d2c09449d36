"""Linear evaluation (paper section 4.1, appendix C.1): a linear classifier on the frozen encoder.

SGD with Nesterov momentum, no regularisation of any kind, a cosine learning rate. The learning rate
is chosen on examples held out of the training set; the classifier is then trained anew on all of it
and meets the test set once. Works on features: the encoder saw each image V times, as V random
crops and flips, and epoch e trains on pass e mod V. With V = 80, the number of epochs, that is the
paper's protocol exactly.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from byol_tf.errors import UserError
from byol_tf.evaluation.features import Features, check_labelled

BASE_LEARNING_RATES = (0.4, 0.3, 0.2, 0.1, 0.05)
_MOMENTUM = 0.9
_ROWS_AT_ONCE = 8192


@dataclasses.dataclass(frozen=True)
class LinearResult:
    """Accuracies in [0, 1].

    Attributes:
        top_1, top_5: on the test set (top-5 with fewer than five classes is 1).
        interval: 95 % confidence interval of top_1 over draws of the test set (Wilson 1927).
        base_lr: the learning rate chosen, for a batch of 256.
        validation_accuracy: top-1 on the held-out examples by base learning rate.
        batch_size: as trained.
        num_test: test examples.
    """

    top_1: float
    top_5: float
    interval: tuple[float, float]
    base_lr: float
    validation_accuracy: dict[float, float]
    batch_size: int
    num_test: int


def linear_accuracy(
    train_views: Sequence[Features],
    train: Features,
    test: Features,
    *,
    seed: int = 0,
    epochs: int = 80,
    batch_size: int = 1024,
    base_lrs: Sequence[float] = BASE_LEARNING_RATES,
    validation_fraction: float = 0.1,
) -> LinearResult:
    """Runs the whole protocol: sweep, choice, training on everything, test.

    All learning rates of the sweep are trained in one program, on the same batches.

    Args:
        train_views: V passes over the training set, aligned with `train`: random crops and flips,
            or just `[train]`, which is cheaper.
        train: the training set's centre crops; those held out are what validation looks at.
        test: the test set's centre crops.
        seed: of the split and the shuffles.
        epochs: of the sweep and of the last training alike.
        batch_size: clipped to the number of training examples; what is left of an epoch is dropped.
        base_lrs: the sweep; the rate used is base × batch / 256, with the batch as clipped. Of
            equally good ones the first is taken.
        validation_fraction: part of the training set that is held out, in (0, 0.5].

    Raises:
        UserError: labels missing, or of classes the training set does not have; too few examples or
            classes; views that are not of the training set.
    """
    _check(train_views, train, test, validation_fraction)
    kept, held_out = validation_split(train.labels, validation_fraction, seed)

    views = [view.representations for view in train_views]
    schedule = {"epochs": epochs, "batch_size": batch_size, "seed": seed}
    sweep = train_classifiers(views, train.labels, kept, base_lrs, **schedule)
    top_1 = sweep.hits(train.representations[held_out], train.labels[held_out], 1).mean(axis=0)
    base_lr = base_lrs[int(np.argmax(top_1))]
    logging.info("linear evaluation: base lr %g of %s, accuracy %s", base_lr, base_lrs, top_1)

    everything = np.arange(len(train.labels))
    final = train_classifiers(views, train.labels, everything, [base_lr], **schedule)
    hits_1 = final.hits(test.representations, test.labels, 1)
    hits_5 = final.hits(test.representations, test.labels, min(5, final.bias.shape[1]))
    return LinearResult(
        top_1=float(hits_1.mean()),
        top_5=float(hits_5.mean()),
        interval=wilson_interval(int(hits_1.sum()), len(hits_1)),
        base_lr=float(base_lr),
        validation_accuracy=dict(zip(map(float, base_lrs), top_1.tolist(), strict=True)),
        batch_size=min(batch_size, len(train.labels)),
        num_test=len(test.labels),
    )


@dataclasses.dataclass(frozen=True)
class Classifiers:
    """L linear classifiers, one a learning rate.

    Attributes:
        kernel: float32 `[D, L, C]`.
        bias: float32 `[L, C]`.
    """

    kernel: np.ndarray
    bias: np.ndarray

    def hits(self, representations: np.ndarray, labels: np.ndarray, top: int) -> np.ndarray:
        """Whether the label is among the `top` best classes: `[N, D]`, `[N]` → bool `[N, L]`."""
        parts = []
        for start in range(0, len(labels), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            logits = np.tensordot(representations[rows], self.kernel, axes=1) + self.bias
            ranked = tf.math.top_k(logits, top).indices  # Among equals, the lower label first.
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
    """Trains one linear classifier a learning rate, all on the same batches.

    They start at zero: the problem is convex and needs no random start.

    Args:
        views: V arrays float32 `[N, D]`.
        labels: int32 `[N]` in [0, C).
        rows: int `[M]`, the examples to train on.
        base_lrs: L learning rates for a batch of 256.
        epochs, batch_size, seed: as `linear_accuracy`.
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
    """One pass: batches int32 `[steps, B]`, learning rates `[steps, L]`."""
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
        # As optax.sgd: the learning rate stays outside the momentum buffer.
        lr = lrs[index][:, tf.newaxis]
        kernel_momentum = _MOMENTUM * kernel_momentum + kernel_gradient
        bias_momentum = _MOMENTUM * bias_momentum + bias_gradient
        kernel -= lr * (_MOMENTUM * kernel_momentum + kernel_gradient)
        bias -= lr * (_MOMENTUM * bias_momentum + bias_gradient)
        return index + 1, kernel, bias, kernel_momentum, bias_momentum

    steps = tf.shape(batches)[0]
    return tf.while_loop(lambda index, *_: index < steps, step, (0, *state))[1:]


def validation_split(
    labels: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions to train on and positions held out, sorted.

    Each class is held out in proportion, to within one example; a class's only example is not.

    Args:
        labels: int `[N]`.
        fraction: in (0, 0.5].
        seed: decides which examples.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    by_class = by_class[np.bincount(labels)[labels[by_class]] > 1]
    # Every (1 / fraction)-th example of the sequence in which classes are contiguous.
    marks = np.floor(np.arange(len(by_class) + 1) * fraction)
    held_out = np.sort(by_class[np.diff(marks) > 0])
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
    """95 % confidence interval of a proportion."""
    z = 1.959964
    centre = (hits + z**2 / 2) / (total + z**2)
    half = z / (total + z**2) * math.sqrt(hits * (total - hits) / total + z**2 / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def _check(train_views, train, test, validation_fraction) -> None:
    check_labelled(train, "training")
    check_labelled(test, "test")
    if not 0 < validation_fraction <= 0.5:
        raise UserError(f"the validation fraction is {validation_fraction}; give one in (0, 0.5].")
    unknown = sorted(set(test.labels.tolist()) - set(train.labels.tolist()))
    if unknown:
        raise UserError(
            f"the test set has labels the training set does not have: {unknown[:10]}; give sets "
            "with the same classes."
        )
    classes, counts = np.unique(train.labels, return_counts=True)
    if len(classes) < 2:
        raise UserError("the training set has one class; linear evaluation needs at least two.")
    if math.floor(counts[counts > 1].sum() * validation_fraction) < 1:
        raise UserError(
            f"the training set has {len(train.labels)} examples, too few to hold out "
            f"{validation_fraction:.0%} of them to choose the learning rate; give more examples."
        )
    for view in train_views:
        if not np.array_equal(view.keys, train.keys):
            raise UserError(
                "the augmented passes do not hold the same examples as the training set; pass all "
                "of them through features.align first."
            )

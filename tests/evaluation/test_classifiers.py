"""The sweep in one program against softmax regression written in NumPy."""

import math

import numpy as np

from byol_tf.evaluation import classifiers


def examples(count, num_classes):
    """Classes that a linear classifier separates with few errors."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 10)).astype(np.float32)
    logits = x @ rng.normal(size=(10, num_classes)) + rng.normal(size=(count, num_classes))
    return x, logits.argmax(axis=1).astype(np.int32)


def sgd_nesterov_softmax_regression(x, y, num_classes, base_lr, epochs, batch_size, seed):
    """In float64: m ← μm + g; w ← w − lr (g + μm); lr = base B/256 (1 + cos πt/T)/2."""
    weights = np.zeros((x.shape[1] + 1, num_classes))  # The last row is the bias.
    momentum = np.zeros_like(weights)
    x = np.concatenate([x.astype(np.float64), np.ones((len(x), 1))], axis=1)
    rng = np.random.default_rng(seed)
    steps = len(x) // batch_size
    for epoch in range(epochs):
        order = rng.permutation(np.arange(len(x)))
        for i in range(steps):
            rows = order[i * batch_size : (i + 1) * batch_size]
            logits = x[rows] @ weights
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            p[np.arange(batch_size), y[rows]] -= 1
            gradient = x[rows].T @ p / batch_size
            t = epoch * steps + i
            lr = base_lr * batch_size / 256 * 0.5 * (1 + math.cos(math.pi * t / (epochs * steps)))
            momentum = 0.9 * momentum + gradient
            weights -= lr * (gradient + 0.9 * momentum)
    return weights


def test_the_sweep_equals_each_learning_rate_trained_alone_in_numpy():
    x, y = examples(210, 4)
    lrs = (0.4, 0.1, 0.05)
    sweep = classifiers.train_classifiers(
        [x], y, np.arange(210), lrs, epochs=3, batch_size=32, seed=5
    )
    assert sweep.kernel.shape == (10, 3, 4) and sweep.bias.shape == (3, 4)
    for index, lr in enumerate(lrs):
        expected = sgd_nesterov_softmax_regression(x, y, 4, lr, epochs=3, batch_size=32, seed=5)
        np.testing.assert_allclose(sweep.kernel[:, index], expected[:-1], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(sweep.bias[index], expected[-1], rtol=1e-4, atol=1e-6)


def test_a_batch_larger_than_the_set_is_clipped_and_so_is_the_learning_rate():
    x, y = examples(50, 3)
    clipped = classifiers.train_classifiers(
        [x], y, np.arange(50), [0.2], epochs=4, batch_size=1024, seed=0
    )
    expected = sgd_nesterov_softmax_regression(x, y, 3, 0.2, epochs=4, batch_size=50, seed=0)
    np.testing.assert_allclose(clipped.kernel[:, 0], expected[:-1], rtol=1e-4, atol=1e-6)


def test_epochs_go_through_the_views_in_turn():
    x, y = examples(64, 3)
    arguments = (y, np.arange(64), [0.2])
    schedule = {"epochs": 2, "batch_size": 64, "seed": 0}
    # Full batches: one step on x, one on -x. The gradient at zero weights only flips its sign.
    turns = classifiers.train_classifiers([x, -x], *arguments, **schedule)
    same = classifiers.train_classifiers([x, x], *arguments, **schedule)
    assert np.abs(turns.kernel).mean() < 0.8 * np.abs(same.kernel).mean()
    again = classifiers.train_classifiers([x], *arguments, **schedule)
    np.testing.assert_array_equal(same.kernel, again.kernel)


def test_only_the_given_rows_are_trained_on():
    x, y = examples(90, 3)
    poisoned = x.copy()
    poisoned[60:] = np.nan
    result = classifiers.train_classifiers(
        [poisoned], y, np.arange(60), [0.2], epochs=2, batch_size=30, seed=0
    )
    assert np.isfinite(result.kernel).all()


def test_top_5_counts_the_five_best():
    rng = np.random.default_rng(0)
    two = classifiers.Classifiers(
        rng.normal(size=(4, 2, 9)).astype(np.float32), rng.normal(size=(2, 9)).astype(np.float32)
    )
    x, y = rng.normal(size=(40, 4)).astype(np.float32), rng.integers(9, size=40)
    for index in range(2):
        logits = x @ two.kernel[:, index] + two.bias[index]
        rank = (logits > logits[np.arange(40), y][:, np.newaxis]).sum(axis=1)
        np.testing.assert_array_equal(two.hits(x, y, 5)[:, index], rank < 5)
        np.testing.assert_array_equal(two.hits(x, y, 1)[:, index], rank < 1)

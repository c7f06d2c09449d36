"""Collapse is seen at the step where it happens; the rank against its formula."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

from byol_tf import networks
from byol_tf.byol import BYOL
from byol_tf.callbacks.collapse import CollapseMonitor, effective_rank
from byol_tf.errors import UserError


def model():
    encoder = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), networks.BatchNorm()])
    model = BYOL(encoder, total_steps=10, projection_size=8, hidden_size=16)
    model.compile(keras.optimizers.SGD(0.0))
    return model


def batches(images, steps=4):
    return tf.data.Dataset.from_tensors(((images, images),)).repeat(steps)


def test_identical_images_raise_one_warning_while_training(caplog):
    images = np.ones((8, 4, 4, 3), "float32")
    with caplog.at_level(logging.WARNING, "absl"):
        model().fit(batches(images), callbacks=[CollapseMonitor()], verbose=0)
    warnings = [record.getMessage() for record in caplog.records if "COLLAPSE" in record.getMessage()]
    assert len(warnings) == 1
    assert "step 0 of epoch 1" in warnings[0]


def test_healthy_training_raises_none(caplog):
    images = np.random.default_rng(0).normal(size=(32, 4, 4, 3)).astype("float32")
    with caplog.at_level(logging.WARNING, "absl"):
        history = model().fit(batches(images), callbacks=[CollapseMonitor(images)], verbose=0).history
    assert "COLLAPSE" not in caplog.text
    assert 10 < history["effective_rank"][0] < 31


def test_warning_comes_again_after_a_recovery(caplog):
    monitor = CollapseMonitor()
    monitor.on_epoch_begin(0)
    with caplog.at_level(logging.WARNING, "absl"):
        for step, std in enumerate([0.9, 0.05, 0.04, 0.5, 0.03]):
            monitor.on_train_batch_end(step, {"loss": 1.0, "projection_std": std})
    assert caplog.text.count("COLLAPSE") == 2


def test_nan_images_end_training_with_what_to_look_for():
    images = np.full((8, 4, 4, 3), np.nan, "float32")
    with pytest.raises(UserError, match="step 0 of epoch 1.*NaN or infinite pixels"):
        model().fit(batches(images), callbacks=[CollapseMonitor()], verbose=0)


def test_effective_rank_of_a_line_is_one_and_of_even_directions_their_number():
    rng = np.random.default_rng(0)
    line = rng.normal(size=(100, 1)) * rng.normal(size=(1, 16)) + 5
    assert effective_rank(line) == pytest.approx(1, abs=1e-6)
    even = np.concatenate([np.eye(16), -np.eye(16)])
    assert effective_rank(even) == pytest.approx(16)


def test_effective_rank_is_the_entropy_of_the_singular_values():
    values = np.array([4.0, 2.0, 1.0])
    left, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(50, 4)) - 0)
    left = left - left.mean(0)
    left, _ = np.linalg.qr(left)  # Orthonormal columns of zero mean.
    shares = values / values.sum()
    assert effective_rank(left[:, :3] * values) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_constant_representations_have_rank_one():
    assert effective_rank(np.ones((10, 4))) == 1

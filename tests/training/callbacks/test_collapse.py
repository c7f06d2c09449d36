"""A collapse is reported at the step where it happens."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.models import networks
from byol_tf.models.byol import BYOL
from byol_tf.training.callbacks.collapse import CollapseMonitor


def model():
    encoder = keras.Sequential(
        [keras.Input((4, 4, 3)), keras.layers.Flatten(), networks.BatchNorm()]
    )
    model = BYOL(encoder, total_steps=10, projection_size=8, hidden_size=16)
    model.compile(keras.optimizers.SGD(0.0))
    return model


def batches(images, steps=4):
    return tf.data.Dataset.from_tensors(((images, images),)).repeat(steps)


def test_identical_images_raise_one_warning_while_training(caplog):
    images = np.ones((8, 4, 4, 3), "float32")
    with caplog.at_level(logging.WARNING, "absl"):
        model().fit(batches(images), callbacks=[CollapseMonitor()], verbose=0)
    warnings = [
        record.getMessage() for record in caplog.records if "COLLAPSE" in record.getMessage()
    ]
    assert len(warnings) == 1
    assert "step 0 of epoch 1" in warnings[0]


def test_healthy_training_raises_none(caplog):
    images = np.random.default_rng(0).normal(size=(32, 4, 4, 3)).astype("float32")
    with caplog.at_level(logging.WARNING, "absl"):
        history = (
            model().fit(batches(images), callbacks=[CollapseMonitor(images)], verbose=0).history
        )
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

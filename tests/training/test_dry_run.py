"""A dry run says what the training would do, measures its time and writes nothing."""

import os
import time

import pytest
from pictures import copy_photos
from quick_recipe import quick

from byol_tf.configs import cifar10
from byol_tf.images.view_config import SmallCrops
from byol_tf.models.two_view_model import TwoViewModel
from byol_tf.training import dry_run


@pytest.fixture
def smoke():
    config = quick(cifar10.get_config)
    config.update(precision="float32", knn_every_epochs=0, epochs=2)
    return config


@pytest.fixture
def photos(images_dir, tmp_path):
    """40 real images in two folders."""
    return copy_photos(images_dir / "train", tmp_path / "photos", ("cat", "truck"), 20)


def test_the_plan_is_that_of_the_training_and_writes_nothing(smoke, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run, "_SECONDS", 0.2)
    monkeypatch.chdir(tmp_path)
    before = sorted(os.walk(tmp_path))
    traces = []
    train_step = TwoViewModel.train_step
    monkeypatch.setattr(
        TwoViewModel, "train_step", lambda *args: traces.append(1) or train_step(*args)
    )
    start = time.monotonic()
    plan = dry_run.plan(smoke, str(photos))
    assert sorted(os.walk(tmp_path)) == before
    assert plan.timed_batch == plan.batch_size == 8 and plan.timed_steps >= 1
    assert len(traces) == 1  # Tracing is most of the time that a dry run takes.

    # As test_pretrain.py finds the same config to train: 5 steps in each of two epochs.
    assert (plan.steps_per_epoch, plan.epochs) == (5, 2)
    # Ten real steps, without the compilation, which alone takes seconds.
    assert 0.01 < plan.seconds < 10 * (time.monotonic() - start)
    text = " ".join(plan.lines())
    assert "40 images, 32 x 32 pixels" in text and "2 epochs of 5 steps, 10 steps" in text
    assert "estimate" in text and "leaves out" in text


def test_the_plan_names_small_crops():
    plan = dry_run.TrainingPlan(
        1, 8, 1, 1, "byol", "resnet", 32, "float32", "CPU", 1, 8, 1.0, SmallCrops(2, 16)
    )
    assert "1 images, 32 x 32 and 2 small crops of 16 x 16 pixels, in" in plan.lines()[0]


def test_a_step_that_would_take_minutes_is_scaled_up_from_few_images(smoke, photos, monkeypatch):
    monkeypatch.setattr(dry_run, "_SECONDS", 0.1)
    smoke.batch_size = 8192
    data, training, time_ = dry_run.describe(smoke, str(photos))
    assert "40 images (jpg 40), in 2 classes, which are for reports only" in data
    assert "2 epochs of 1 step, 2 steps of 8192 images" in training
    assert "more images than there are" in training
    assert "of 8 images" in time_

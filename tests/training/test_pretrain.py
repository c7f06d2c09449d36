"""Pretraining runs: files, resuming after SIGKILL to the same weights, refusals, failures."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from pictures import copy_photos
from quick_recipe import FLAG, quick

from byol_tf import keras_compat, locks, runs
from byol_tf.configs import cifar10, defaults
from byol_tf.errors import UserError
from byol_tf.models import networks
from byol_tf.runs import read_history
from byol_tf.training import pretrain
from byol_tf.training.callbacks import checkpoint


@pytest.fixture
def tiny():
    """Returns the smoke recipe with an encoder that is traced in a second."""
    config = quick(cifar10.get_config)
    config.epochs, config.knn_examples, config.precision = 2, 40, "float32"
    return config


@pytest.fixture
def photos(images_dir, tmp_path):
    """40 real images of two classes."""
    return str(copy_photos(images_dir / "train", tmp_path / "photos", ("cat", "truck"), 20))


def weights_of(model):
    slots = model.optimizer.variables
    slots = slots() if callable(slots) else slots  # A method of tfa's LAMB.
    return [w.numpy() for w in (*model.weights, *slots)]


def test_run_folder_holds_config_curves_and_the_last_step(tiny, photos, tmp_path):
    run_dir = str(tmp_path / "run")
    model = pretrain.pretrain(tiny, photos, run_dir)
    assert int(model.step.numpy()) == 10

    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["examples"], config["classes"], config["epochs"]) == (40, ["cat", "truck"], 2)
    rows = read_history(run_dir)
    assert [int(row["step"]) for row in rows] == [5, 10]
    logged = {
        "loss",
        "lr",
        "ema",
        "projection_std",
        "effective_rank",
        "online_accuracy",
        "knn_accuracy",
    }
    assert logged <= set(rows[-1])
    (path,) = (tmp_path / "run" / "logs").iterdir()
    points = [
        (value.tag, event.step, value.metadata.plugin_data.plugin_name)
        for event in tf.compat.v1.train.summary_iterator(str(path))
        for value in event.summary.value
    ]
    assert logged <= {tag for tag, _, _ in points}
    assert {plugin for _, _, plugin in points} == {"scalars"}
    assert [step for tag, step, _ in points if tag == "loss"] == [5, 10]

    restored = runs.restore_encoder(run_dir)
    for actual, wanted in zip(restored.weights, model.encoder.weights, strict=True):
        np.testing.assert_array_equal(actual, wanted)


def test_finished_run_started_again_trains_nothing(tiny, photos, tmp_path):
    first = weights_of(pretrain.pretrain(tiny, photos, str(tmp_path / "run")))
    start = time.time()
    second = weights_of(pretrain.pretrain(tiny, photos, str(tmp_path / "run")))
    for actual, wanted in zip(second, first, strict=True):
        np.testing.assert_array_equal(actual, wanted)
    assert all(
        path.stat().st_mtime < start for path in (tmp_path / "run" / "checkpoints").iterdir()
    )


def test_a_run_with_lamb_is_saved_and_restored(tiny, photos, tmp_path):
    if keras_compat.Lamb is None:
        pytest.importorskip("tensorflow_addons")
    tiny.optimizer.name, tiny.epochs = "lamb", 1
    first = weights_of(pretrain.pretrain(tiny, photos, str(tmp_path / "run")))
    second = weights_of(pretrain.pretrain(tiny, photos, str(tmp_path / "run")))
    for actual, wanted in zip(second, first, strict=True):
        np.testing.assert_array_equal(actual, wanted)


class Killed(Exception):
    """Stands for a kill."""


@pytest.fixture
def kill_after(monkeypatch):
    """Returns a function that lets training die once, right after the checkpoint of a step."""
    save = checkpoint.TrainingCheckpoint._save

    def arm(step):
        def save_then_die(self):
            save(self)
            if int(self.model.step.numpy()) == step:
                monkeypatch.setattr(checkpoint.TrainingCheckpoint, "_save", save)
                raise Killed

        monkeypatch.setattr(checkpoint.TrainingCheckpoint, "_save", save_then_die)

    return arm


def test_run_continued_mid_epoch_equals_an_uninterrupted_one(tiny, photos, tmp_path, kill_after):
    tiny.checkpoint_every_steps = 3
    whole = pretrain.pretrain(tiny, photos, str(tmp_path / "whole"))
    kill_after(step=3)
    with pytest.raises(Killed):
        pretrain.pretrain(tiny, photos, str(tmp_path / "resumed"))
    resumed = pretrain.pretrain(tiny, photos, str(tmp_path / "resumed"))
    # TensorFlow's threads sum in any order; the bitwise proof is the SIGKILL test below.
    for actual, wanted in zip(weights_of(resumed), weights_of(whole), strict=True):
        np.testing.assert_allclose(actual, wanted, atol=1e-3)
    histories = [read_history(str(tmp_path / name)) for name in ("resumed", "whole")]
    assert [row["step"] for row in histories[0]] == ["5", "10"]
    for actual, wanted in zip(*histories, strict=True):
        assert actual.keys() == wanted.keys()
        for name in ("loss", "projection_std", "online_accuracy"):
            assert float(actual[name]) == pytest.approx(float(wanted[name]), abs=2e-3), name


@pytest.mark.exhaustive
def test_a_run_with_small_crops_is_continued_likewise(tiny, photos, tmp_path, kill_after):
    defaults.set_encoder(tiny, "own_encoders.tiny")
    tiny.epochs, tiny.knn_every_epochs, tiny.checkpoint_every_steps = 1, 0, 3
    tiny.augment.update(small_crops=2, small_crop_size=8)
    whole = pretrain.pretrain(tiny, photos, str(tmp_path / "whole"))
    kill_after(step=3)
    with pytest.raises(Killed):
        pretrain.pretrain(tiny, photos, str(tmp_path / "resumed"))
    resumed = pretrain.pretrain(tiny, photos, str(tmp_path / "resumed"))
    for actual, wanted in zip(weights_of(resumed), weights_of(whole), strict=True):
        np.testing.assert_allclose(actual, wanted, atol=1e-3)


def test_a_full_disk_is_one_sentence(tiny, photos, small_disk):
    """callbacks/test_checkpoint.py shows that nothing is lost."""
    free = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(bytes(free - (48 << 10)))  # Less than a checkpoint.
    with pytest.raises(UserError, match="no space left on the disk of '.*/run'"):
        pretrain.pretrain(tiny, photos, str(small_disk / "run"))


@pytest.mark.slow
def test_command_killed_at_random_moments_ends_with_the_same_weights_bit_for_bit(photos, tmp_path):
    """Two SIGKILLs, then a run to the end; kernels are deterministic: only resuming can differ."""
    command = [
        sys.executable,
        "-m",
        "byol_tf.cli.pretrain",
        "--config=cifar10:smoke",
        FLAG,
        f"--data_dir={photos}",
        "--config.epochs=3",
        "--config.checkpoint_every_steps=2",
        "--config.precision=float32",
        "--config.knn_every_epochs=0",
    ]
    environment = os.environ | {"TF_DETERMINISTIC_OPS": "1"}

    def run(name):
        return subprocess.Popen(
            [*command, f"--run_dir={tmp_path / name}"], env=environment, stderr=subprocess.DEVNULL
        )

    def saved(name):
        return {path.name for path in (tmp_path / name / "checkpoints").glob("*.index")}

    assert run("whole").wait(timeout=900) == 0
    delay = random.Random(0)
    for _ in range(2):
        before, process = saved("killed"), run("killed")
        while process.poll() is None and not saved("killed") - before:
            time.sleep(0.02)
        time.sleep(delay.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert run("killed").wait(timeout=900) == 0

    def weights(name):
        reader = tf.train.load_checkpoint(str(tmp_path / name / "checkpoints"))
        return {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()}

    whole, killed = weights("whole"), weights("killed")
    assert whole.keys() == killed.keys()
    assert whole["model/step/.ATTRIBUTES/VARIABLE_VALUE"] == 15
    for key in whole.keys() - {
        "_CHECKPOINTABLE_OBJECT_GRAPH",
        "save_counter/.ATTRIBUTES/VARIABLE_VALUE",
    }:
        np.testing.assert_array_equal(killed[key], whole[key], err_msg=key)
    history = read_history(str(tmp_path / "killed"))
    assert [row["step"] for row in history] == ["5", "10", "15"]
    assert history == read_history(str(tmp_path / "whole"))


def test_another_config_in_the_same_folder_is_refused_by_its_fields(tiny, photos, tmp_path):
    pretrain.pretrain(tiny, photos, str(tmp_path / "run"))
    tiny.base_ema, tiny.optimizer.base_lr = 0.5, 0.123
    with pytest.raises(UserError, match=r"base_ema: 0\.99 there, 0\.5 given; optimizer\.base_lr"):
        pretrain.pretrain(tiny, photos, str(tmp_path / "run"))


def test_other_data_in_the_same_folder_are_refused(tiny, photos, tmp_path):
    pretrain.pretrain(tiny, photos, str(tmp_path / "run"))
    next(pathlib.Path(photos, "cat").iterdir()).unlink()
    with pytest.raises(UserError, match="examples: 40 there, 39 given"):
        pretrain.pretrain(tiny, photos, str(tmp_path / "run"))


def test_a_second_run_in_the_folder_is_refused_while_the_first_trains(tiny, photos, tmp_path):
    (tmp_path / "run").mkdir()
    with (
        locks.exclusive(str(tmp_path / "run"), "taken"),  # test_locks.py has two processes.
        pytest.raises(UserError, match="another byol-pretrain is training in '.*/run'"),
    ):
        pretrain.pretrain(tiny, photos, str(tmp_path / "run"))
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_refused_config_does_not_block_the_folder_and_a_cut_one_can_be_replaced(
    tiny, photos, tmp_path
):
    run_dir = tmp_path / "run"
    tiny.base_ema, tiny.epochs = 1.5, 1
    with pytest.raises(UserError, match="base_ema is 1.5"):
        pretrain.pretrain(tiny, photos, str(run_dir))
    tiny.base_ema = 0.99
    model = pretrain.pretrain(tiny, photos, str(run_dir))
    assert runs.load_config(str(run_dir)).base_ema == 0.99

    os.truncate(run_dir / "config.json", 100)
    with pytest.raises(UserError, match="config.json' is damaged"):
        pretrain.pretrain(tiny, photos, str(run_dir))
    (run_dir / "config.json").unlink()
    again = pretrain.pretrain(tiny, photos, str(run_dir))
    for actual, wanted in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(actual, wanted)


def test_checkpoint_of_another_architecture_is_refused(tiny, photos, tmp_path, monkeypatch):
    pretrain.pretrain(tiny, photos, str(tmp_path / "run"))
    monkeypatch.setattr(
        runs, "build_float32_encoder", lambda config: networks.resnet(18, 0.125, 32, "small")
    )
    with pytest.raises(UserError, match="another architecture"):
        runs.restore_encoder(str(tmp_path / "run"))
    with pytest.raises(UserError, match="no checkpoint '.*gone'"):
        runs.restore_encoder(str(tmp_path / "run"), str(tmp_path / "gone"))


def test_unlabelled_images_train_without_classifier_and_knn(tiny, photos, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in pathlib.Path(photos).glob("*/*.jpg"):
        shutil.copy(path, flat / f"{path.parent.name}{path.name}")
    model = pretrain.pretrain(tiny, str(flat), str(tmp_path / "run"))
    assert model.classifier is None
    assert "knn_accuracy" not in read_history(str(tmp_path / "run"))[-1]


def test_device_augmentation_trains(tiny, photos, tmp_path):
    tiny.augment.run_on, tiny.epochs = "device", 1
    model = pretrain.pretrain(tiny, photos, str(tmp_path / "run"))
    assert model.augmentation is not None and int(model.step.numpy()) == 5
    assert np.isfinite(float(read_history(str(tmp_path / "run"))[-1]["loss"]))


def test_two_replicas_train_and_their_checkpoint_continues_on_one(
    tiny, photos, tmp_path, two_replicas, monkeypatch
):
    """Only runs it; test_strategy.py shows that the weights are those of one device."""
    tiny.epochs = 1
    with monkeypatch.context() as patch:
        patch.setattr(pretrain.strategies, "build_strategy", {"mirrored": two_replicas}.get)
        model = pretrain.pretrain(tiny, photos, str(tmp_path / "run"), strategy="mirrored")
    assert int(model.step.numpy()) == 5
    assert all(np.isfinite(w.numpy()).all() for w in model.weights)
    again = pretrain.pretrain(tiny, photos, str(tmp_path / "run"))
    for actual, wanted in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(actual.numpy(), wanted.numpy())


def test_too_many_corrupt_images_stop_the_run_with_one_sentence(tiny, photos, tmp_path):
    for path in sorted(pathlib.Path(photos, "cat").iterdir())[:5]:
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="corrupt.*max_corrupt_fraction"):
        pretrain.pretrain(tiny, photos, str(tmp_path / "run"))


@pytest.mark.parametrize(
    "field, value, sentence",
    [
        ("epochs", 0, "epochs is 0"),
        ("batch_size", 1, "batch_size 1"),
        ("base_ema", 1.5, "base_ema is 1.5"),
        ("checkpoint_every_steps", 0, "checkpoint_every_steps is 0"),
        ("precision", "int8", "precision 'int8'"),
    ],
)
def test_bad_fields_are_named(tiny, photos, tmp_path, field, value, sentence):
    tiny[field] = value
    with pytest.raises(UserError, match=sentence):
        pretrain.pretrain(tiny, photos, str(tmp_path / "run"))


def test_unwritable_run_folder_is_named(tiny, photos, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="cannot be written"):
        pretrain.pretrain(tiny, photos, str(tmp_path / "file" / "run"))


@pytest.mark.parametrize("content", ["", '{"epochs": 2, "ima', "[]", "\0" * 20])
def test_a_cut_config_is_called_damaged(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="config.json' is damaged"):
        runs.load_config(str(tmp_path))


def test_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        runs.load_config(str(tmp_path))

"""Saving and restoring when files are damaged or the disk is full."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from byol_tf import checkpoints, keras_compat
from byol_tf.training.callbacks.checkpoint import TrainingCheckpoint


class Counting(keras.Model):
    """A dense layer, and the step."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(200)
        self.dense.build((None, 200))
        self.step = keras_compat.add_counter(self, "step")
        self.built = True


def new_saver(folder):
    """Returns a saver of a model of 200 kB, whose weights are all equal to its step."""
    model = Counting()
    model.compile("sgd")
    saver = TrainingCheckpoint(str(folder), model, every_steps=1)
    saver.set_model(model)
    saver.set_params({"steps": 10})
    return saver


def train_to(saver, step):
    for weight in map(keras_compat.native, saver.model.weights):
        weight.assign(tf.fill(weight.shape, tf.cast(step, weight.dtype)))
    saver.on_train_batch_end(0)


def test_the_last_step_of_an_epoch_is_saved_when_the_epoch_has_been_logged(tmp_path):
    saver = new_saver(tmp_path)
    saver.restore()
    saver.model.step.assign(10)
    saver.on_train_batch_end(9)
    assert checkpoints.saved(str(tmp_path)) == []
    saver.on_epoch_end(0)
    assert checkpoints.saved(str(tmp_path)) == [str(tmp_path / "ckpt-10")]


def test_a_damaged_checkpoint_is_replaced_by_the_one_before(tmp_path):
    saver = new_saver(tmp_path)
    assert saver.restore() == 0
    for step in (1, 2, 3):
        train_to(saver, step)
    data = tmp_path / "ckpt-3.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])

    again = new_saver(tmp_path)
    assert again.restore() == 2
    np.testing.assert_array_equal(again.model.weights[0], np.full((200, 200), 2))
    train_to(again, 3)
    kept = checkpoints.saved(str(tmp_path))
    assert kept == [str(tmp_path / "ckpt-2"), str(tmp_path / "ckpt-3")]
    assert all(map(checkpoints.is_whole, kept))
    train_to(again, 4)
    assert not (tmp_path / "ckpt-2.index").exists()


def test_an_emptied_list_of_checkpoints_is_written_again(tmp_path):
    saver = new_saver(tmp_path)
    saver.restore()
    for step in (1, 2):
        train_to(saver, step)
    (tmp_path / "checkpoint").write_bytes(b"")
    again = new_saver(tmp_path)
    assert again.restore() == 2
    train_to(again, 3)
    assert [path[-1] for path in checkpoints.saved(str(tmp_path))] == ["2", "3"]


@pytest.mark.parametrize("free", [0, 64 << 10])
def test_a_full_disk_loses_nothing(small_disk, tmp_path, free):
    folder = small_disk / "checkpoints"
    saver = new_saver(folder)
    saver.restore()
    train_to(saver, 1)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file:
        file.write(bytes(2 << 20))  # Stops where the disk is full.
        file.truncate(file.tell() - free)
    with pytest.raises(tf.errors.ResourceExhaustedError, match="No space left"):
        train_to(saver, 2)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    filler.unlink()
    again = new_saver(folder)
    assert again.restore() == 1
    train_to(again, 2)
    assert checkpoints.find_latest(str(folder)) == str(folder / "ckpt-2")

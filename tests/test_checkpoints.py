"""The latest whole checkpoint: damage of each kind falls back to the one before and is named."""

import logging
import os
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.applications.convnext import LayerScale  # It has no public name.

from byol_tf import checkpoints
from byol_tf.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Checkpoints 1 and 2 of a vector that holds as many ones or twos."""
    vector = tf.Variable(np.zeros(1000, "float32"))
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(vector=vector), str(tmp_path), 2)
    for number in (1, 2):
        vector.assign(np.full(1000, number, "float32"))
        manager.save(checkpoint_number=number)
    return tmp_path


def cut(path: pathlib.Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: pathlib.Path) -> None:
    os.truncate(path, 0)


def flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage, suffix",
    [
        (damage, suffix)
        for damage in (cut, empty, flip, os.remove)
        for suffix in (".index", ".data-00000-of-00001")
    ],
)
def test_damage_falls_back_to_the_checkpoint_before_and_names_both(folder, caplog, damage, suffix):
    damage(folder / f"ckpt-2{suffix}")
    with caplog.at_level(logging.WARNING, "absl"):
        assert checkpoints.find_latest(str(folder)) == str(folder / "ckpt-1")
    (record,) = [r for r in caplog.records if r.name == "absl"]
    assert f"'{folder}/ckpt-2'" in record.getMessage()
    assert f"'{folder}/ckpt-1'" in record.getMessage()


def test_a_folder_without_a_whole_checkpoint_is_one_sentence(folder):
    for number in (1, 2):
        cut(folder / f"ckpt-{number}.data-00000-of-00001")
    with pytest.raises(UserError, match="no checkpoint in .* is whole .*ckpt-2.*ckpt-1"):
        checkpoints.find_latest(str(folder))


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b"\xff\xfe", None])
def test_a_damaged_list_of_checkpoints_loses_none(folder, content):
    if content is None:
        (folder / "checkpoint").unlink()
    else:
        (folder / "checkpoint").write_bytes(content)
    (folder / "ckpt-2.index").rename(folder / "ckpt-10.index")
    (folder / "ckpt-2.data-00000-of-00001").rename(folder / "ckpt-10.data-00000-of-00001")
    assert checkpoints.find_latest(str(folder)) == str(folder / "ckpt-10")


def test_a_folder_that_does_not_exist_has_no_checkpoint(tmp_path):
    assert checkpoints.find_latest(str(tmp_path / "gone")) is None


def test_a_damaged_checkpoint_given_by_name_is_called_damaged(folder):
    cut(folder / "ckpt-2.data-00000-of-00001")
    saved = tf.train.Checkpoint(vector=tf.Variable(np.zeros(1000, "float32")))
    with pytest.raises(UserError, match="ckpt-2' is damaged"):
        checkpoints.restore(saved, str(folder / "ckpt-2"))


def test_layers_of_other_packages_have_the_same_names_on_either_keras(tmp_path):
    """The names of Keras 2.15, of the layers that keras.applications has and our ResNet has not."""
    scale = LayerScale(1e-6, 3)  # Its weight has no name in Keras 3.
    layers = [keras.layers.Normalization(), keras.layers.DepthwiseConv2D(3), scale]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    saved = tf.train.Checkpoint(model=checkpoints.trackable(model)).write(str(tmp_path / "c"))
    keys = tf.train.load_checkpoint(saved).get_variable_to_shape_map()
    names = {
        key.removeprefix("model/").removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
        for key in keys
        if key.startswith("model/")
    }
    assert names == {
        *(f"layer_with_weights-0/{name}" for name in ("mean", "variance", "count")),
        *(f"layer_with_weights-1/{name}" for name in ("depthwise_kernel", "bias")),
        "layer_with_weights-2/gamma",
    }

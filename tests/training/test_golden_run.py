"""A run that Keras 2 checkpointed is continued and exported by either Keras.

The folder was written on TensorFlow 2.15.1 by
`python tests/support/golden_run.py tests/golden/run-of-keras-2`.
"""

import json
import pathlib
import shutil

import golden_run
import numpy as np
import pytest
import tensorflow as tf

from byol_tf import build, export, runs
from byol_tf.errors import UserError
from byol_tf.training.callbacks.checkpoint import TrainingCheckpoint

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "run-of-keras-2"


def test_weights_slots_and_steps_are_restored(tmp_path):
    folder = str(shutil.copytree(GOLDEN / "checkpoints", tmp_path / "checkpoints"))
    model = golden_run.new_model()
    restored = TrainingCheckpoint(folder, model, every_steps=1).restore()
    assert restored == int(model.step) == int(model.optimizer.iterations) == golden_run.STEP
    for variable, value in zip(golden_run.state(model), golden_run.drawn(model), strict=True):
        np.testing.assert_array_equal(variable, value)


def test_this_kerass_own_checkpoint_has_the_same_names(tmp_path):
    """So the other Keras restores it in turn."""
    model = golden_run.new_model()
    saver = TrainingCheckpoint(str(tmp_path), model, every_steps=1)
    saver.set_model(model)
    saver.set_params({"steps": 10})
    model.step.assign(1)
    saver.on_train_batch_end(0)
    ours, golden = (
        tf.train.load_checkpoint(str(folder)).get_variable_to_shape_map()
        for folder in (tmp_path, GOLDEN / "checkpoints")
    )
    assert ours == golden


def test_the_encoder_is_exported(tmp_path):
    encoder = runs.restore_encoder(str(GOLDEN))
    model = golden_run.new_model()
    drawn = golden_run.drawn(model)[: len(model.encoder.weights)]
    layers = [weight for layer in encoder.layers for weight in layer.weights]
    for weight, value in zip(layers, drawn, strict=True):
        np.testing.assert_array_equal(weight, value)
    path = tmp_path / "encoder" / "1"
    preprocessing = build.preprocessing_from_config(golden_run.config())
    export.save_encoder(encoder, path, preprocessing=preprocessing)  # Compares outputs itself.
    assert export.load_saved_model(str(path))[2]["embedding_size"] == 8


def test_a_config_from_before_a_field_existed_is_the_one_with_its_default(tmp_path):
    folder = str(shutil.copytree(GOLDEN, tmp_path / "run"))
    before = json.loads((GOLDEN / "config.json").read_text())
    given = golden_run.config()
    assert "clip" in given.optimizer and "clip" not in before["optimizer"]
    described = {"examples": before["examples"], "classes": before["classes"]}
    runs.claim_run_dir(folder, given.to_dict() | described)
    given.optimizer.clip = True
    with pytest.raises(UserError, match=r"\(optimizer.clip: False there, True given\)"):
        runs.claim_run_dir(folder, given.to_dict() | described)

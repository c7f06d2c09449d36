"""Keras files, loaded where byol_tf is not installed, against the encoder."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from byol_tf import export
from byol_tf.errors import UserError
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.models import networks
from byol_tf.models.precision import policy_scope

SIZE = 32
PREPROCESSING = Preprocessing(SIZE, 0.8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
TOLERANCE = 1e-4
LOAD = """
import sys
sys.modules["byol_tf"] = None
import keras, numpy as np
model = keras.models.load_model(sys.argv[1])
assert {weight.dtype for weight in map(np.asarray, model.get_weights())} == {np.dtype("float32")}
np.save(sys.argv[3], model(np.load(sys.argv[2]), training=False))
"""


@pytest.fixture(scope="module")
def encoder(make_resnet):
    with policy_scope("mixed_bfloat16"):  # As it was trained; the file is float32.
        return make_resnet(SIZE)


@pytest.fixture(scope="module")
def images(photos):
    return photos[::4]


@pytest.fixture(scope="module")
def expected(encoder, images):
    """The embeddings of a float32 encoder with the same weights."""
    plain = networks.resnet(10, 0.25, SIZE, "small")
    plain.set_weights(encoder.get_weights())
    return plain(PREPROCESSING(images), training=False).numpy()


@pytest.fixture(scope="module")
def path(encoder, images, tmp_path_factory):
    path = tmp_path_factory.mktemp("keras") / "photos.keras"
    export.save_keras(encoder, path, preprocessing=PREPROCESSING, images=images)
    return path


def loaded_by(python, path, images, folder):
    """The embeddings by a process that cannot import byol_tf."""
    np.save(folder / "images.npy", PREPROCESSING(images))
    arguments = [python, "-c", LOAD, path, folder / "images.npy", folder / "embeddings.npy"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(list(map(str, arguments)), check=True, env=environment, cwd=folder)
    return np.load(folder / "embeddings.npy")


def test_a_stranger_loads_it_with_keras_alone(path, images, expected, tmp_path):
    assert np.abs(expected).mean() > 0.1
    embeddings = loaded_by(sys.executable, path, images, tmp_path)
    np.testing.assert_allclose(embeddings, expected, rtol=0, atol=TOLERANCE)


def test_keras_3_loads_what_keras_2_has_written(path, images, expected, tmp_path):
    """Keras 3 loads a file of Keras 2; that of Keras 3 has configs that Keras 2 refuses."""
    python = os.environ.get("BYOL_OTHER_PYTHON")
    if not python or keras.__version__.startswith("3"):
        pytest.skip("BYOL_OTHER_PYTHON does not name the Python of the current stack")
    embeddings = loaded_by(python, path, images, tmp_path)
    np.testing.assert_allclose(embeddings, expected, rtol=0, atol=TOLERANCE)


def test_it_trains_on_with_the_encoders_batch_norm(path, encoder):
    model = keras.models.load_model(path)
    norms = {layer.name: layer for layer in model.layers if "_bn" in layer.name}
    assert norms.keys() == {layer.name for layer in encoder.layers if "_bn" in layer.name}
    assert {type(layer) for layer in norms.values()} == {keras.layers.BatchNormalization}
    assert {(layer.momentum, layer.epsilon) for layer in norms.values()} == {(0.9, 1e-5)}


def test_the_card_says_what_the_caller_does(path, images):
    card = json.loads(path.with_name("photos.keras.card.json").read_text())
    assert card["format"] == "keras" and card["versions"]["keras"] == keras.__version__
    for step in ("central square", "bicubic", "255", "minus `mean`, divided by `std`"):
        assert step in card["input"]
    assert Preprocessing(**card["preprocessing"]) == PREPROCESSING
    assert card["compared"]["images"] == 3 + len(images) and card["classes_to_register"] == []
    assert card["compared"]["largest_difference"] < TOLERANCE


@keras.saving.register_keras_serializable("tests")
class Double(keras.layers.Layer):
    def call(self, images):
        return 2 * images


def test_the_card_names_the_classes_that_are_not_keras_own(tmp_path):
    pool = keras.layers.GlobalAveragePooling2D()
    encoder = keras.Sequential([keras.Input((SIZE, SIZE, 3)), Double(), networks.BatchNorm(), pool])
    export.save_keras(encoder, tmp_path / "1.keras", preprocessing=PREPROCESSING)
    card = json.loads((tmp_path / "1.keras.card.json").read_text())
    assert card["classes_to_register"] == ["tests>Double"]


def test_bad_input_gets_a_sentence_and_leaves_nothing_behind(encoder, tmp_path):
    with pytest.raises(UserError, match="does not end with .keras"):
        export.save_keras(encoder, tmp_path / "1.h5", preprocessing=PREPROCESSING)
    with pytest.raises(UserError, match="32, 3\\), but the preprocessing makes them 64"):
        export.save_keras(encoder, tmp_path / "1.keras", preprocessing=Preprocessing(64))
    diverged = keras.models.clone_model(encoder)
    diverged.weights[0].assign(tf.fill(diverged.weights[0].shape, np.nan))
    with pytest.raises(UserError, match="not finite"):
        export.save_keras(diverged, tmp_path / "1.keras", preprocessing=PREPROCESSING)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing_behind(encoder, small_disk):
    (small_disk / "filler").write_bytes(bytes(1 << 20))
    with pytest.raises(UserError, match="cannot be written"):
        export.save_keras(encoder, small_disk / "1.keras", preprocessing=PREPROCESSING)
    assert [file.name for file in small_disk.iterdir()] == ["filler"]

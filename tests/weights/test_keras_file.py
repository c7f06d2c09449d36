"""Files of either Keras, read without it; the golden one was written by Keras 2."""

import io
import json
import pathlib
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tiny_byol

from byol_tf.errors import UserError
from byol_tf.models import networks
from byol_tf.weights import imported, keras_file, read

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
ARCHITECTURE = {"depth": 10, "width": 0.25, "stem": "lightly", "padding": "symmetric"}


def shaken(model):
    """The model with weights that are neither 0 nor 1."""
    rng = np.random.default_rng(1)
    model.set_weights([w + rng.uniform(0, 0.1, w.shape) for w in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def resnet():
    return shaken(networks.resnet(image_size=32, **ARCHITECTURE))


@pytest.fixture(scope="module")
def file(resnet, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("keras") / "encoder.keras")
    resnet.save(path)
    return path


def assert_equal(model, wanted):
    for layer in wanted.layers:
        for found, value in zip(
            model.get_layer(layer.name).get_weights(), layer.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(found, value)


def test_a_byol_of_keras_2_is_an_encoder_in_either_keras():
    """Its representations are those that version 0.1.0 gave; see test_public_names.py."""
    found = read(str(GOLDEN / "byol-0.1.0.keras"))
    assert (found.method, found.encoder) == ("byol", None)
    layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), networks.BatchNorm()]
    encoder = keras.Sequential([*layers, keras.layers.GlobalAveragePooling2D()])
    found.assign_to(encoder)
    ramp = np.linspace(0, 1, 2 * 8 * 8 * 3, dtype=np.float32).reshape(2, 8, 8, 3)
    expected = [[0.000604, 0.001136, -0.0075, 0.841314], [0.027397, 0.003387, -0.022249, 3.360395]]
    np.testing.assert_allclose(encoder(ramp), expected, atol=2e-6)


def test_a_resnet_of_a_keras_file_is_known_down_to_its_padding(file, resnet):
    found = read(file)
    assert found.encoder == ARCHITECTURE | {"c2_projection": False}
    encoder, config = imported.build(found)
    assert (config.image_size, config.method) == (32, "imported")
    assert_equal(encoder, resnet)


def test_the_encoder_of_a_method_is_taken(tmp_path):
    model = tiny_byol.make_model()
    model.compile("sgd")
    shaken(model.target_encoder)
    shaken(model.encoder)
    model.save(tmp_path / "byol.keras")
    other = tiny_byol.make_model().encoder  # Layers of other numbers.
    read(str(tmp_path / "byol.keras")).assign_to(other)
    for found, wanted in zip(other.get_weights(), model.encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_weights_file_is_read_by_the_encoder_it_is_for(resnet, tmp_path):
    path = str(tmp_path / "encoder.weights.h5")
    resnet.save_weights(path)
    found = read(path)
    encoder = networks.resnet(image_size=32, **ARCHITECTURE)
    found.assign_to(encoder)
    assert_equal(encoder, resnet)
    with pytest.raises(UserError, match="layer 'c2_block2_conv1'|has 3x3"):
        found.assign_to(networks.resnet(18, 0.25, 32, "small"))
    with pytest.raises(UserError, match="does not say which network its weights are of"):
        imported.build(found)
    assert found.fingerprint == read(path).fingerprint


def test_models_inside_the_encoder_are_read(tmp_path):
    def make():
        inner = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3, name="inner")])
        images = keras.Input((8, 8, 3))
        maps = keras.layers.Conv2D(4, 3, name="outer")(inner(images))
        return keras.Model(images, keras.layers.GlobalAveragePooling2D()(maps))

    model = shaken(make())
    model.save(tmp_path / "nested.keras")
    found = read(str(tmp_path / "nested.keras"))
    assert sorted(found.layers) == ["inner", "outer"]
    other = make()
    found.assign_to(other)
    images = np.ones((1, 8, 8, 3), np.float32)
    np.testing.assert_array_equal(other(images), model(images))


def test_layers_that_hold_layers_are_named_and_not_half_read(tmp_path):
    tokens = keras.Input((4, 8))
    out = keras.layers.MultiHeadAttention(2, 4, name="attention")(tokens, tokens)
    model = keras.Model(tokens, keras.layers.GlobalAveragePooling1D()(out))
    model.save(tmp_path / "vit.keras")
    with pytest.raises(UserError, match="the layer 'attention' .* holds layers of its own"):
        read(str(tmp_path / "vit.keras"))


def damaged(path, change):
    """Copies a .keras file with other members."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def no_layers(members):
    members["config.json"] = json.dumps({"class_name": "Model", "config": {}}).encode()


def deep(members):
    members["config.json"] = b'{"a":' * 100_000


def boasting(members):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_dataset("layers/conv2d/vars/0", (2**20, 2**20), "f4")  # No byte is stored.
    members["model.weights.h5"] = buffer.getvalue()


@pytest.mark.parametrize(
    "change, sentence",
    [
        (no_layers, "is not a .keras file with an encoder"),
        (deep, "is not a .keras file with an encoder"),
        (lambda members: members.pop("config.json"), "is not a .keras file with an encoder"),
        (lambda members: members.pop("model.weights.h5"), "is not a .keras file with an encoder"),
        (boasting, "is not an array that Keras wrote"),
    ],
)
def test_damaged_files_are_refused(file, change, sentence, tmp_path):
    path = tmp_path / "x.keras"
    path.write_bytes(damaged(file, change))
    with pytest.raises(UserError, match=sentence):
        read(str(path))


@pytest.mark.parametrize("name", ["x.keras", "x.weights.h5"])
def test_files_of_another_kind_are_refused(name, tmp_path):
    (tmp_path / name).write_bytes(b"no such file" * 100)
    with pytest.raises(UserError, match="not a .keras file|not a whole HDF5 file"):
        read(str(tmp_path / name))
    with h5py.File(tmp_path / "empty.weights.h5", "w"):
        pass
    with pytest.raises(UserError, match="holds no weights of Keras"):
        keras_file.read_weights(str(tmp_path / "empty.weights.h5"))

"""A training starts from weights: before its first step, and not again when it is resumed."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from byol_tf import build, encoders, export, runs, weights
from byol_tf.configs import cifar10_demo
from byol_tf.errors import UserError
from byol_tf.models import backbones, networks
from byol_tf.training import dry_run, pretrain
from byol_tf.weights import imagenet

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "weights"


def smoke(path=None, **encoder):
    config = cifar10_demo.get_config("smoke")
    config.update(precision="float32", batch_size=4, knn_every_epochs=0)
    config.encoder.update(weights=path and str(path), **encoder)
    return config


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A .keras file of the smoke network, its weights neither 0 nor 1."""
    encoder = build.build_encoder(smoke())
    rng = np.random.default_rng(0)
    encoder.set_weights([w + rng.uniform(0, 0.1, w.shape) for w in encoder.get_weights()])
    path = tmp_path_factory.mktemp("source") / "encoder.keras"
    encoder.save(path)
    return path


@pytest.fixture(scope="module")
def photos(images_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for file in sorted(images_dir.glob("test/cat/*.jpg"))[:8]:
        shutil.copy(file, folder)
    return str(folder)


@pytest.fixture(scope="module")
def images_dir():
    return pathlib.Path(__file__).parents[2] / "examples" / "images"


def assert_weights(encoder, arrays):
    for name, values in arrays.items():
        for found, wanted in zip(encoder.get_layer(name).get_weights(), values, strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("method", ["byol", "simclr"])
def test_online_and_target_start_from_the_weights(source, method):
    config = smoke(source)
    config.method = method
    start = weights.read_start(config)
    model = build.build_model(config, 5, None, tf.distribute.get_strategy(), start.assign_to)
    for encoder in (model.encoder, *model.targets[:1]):
        assert_weights(encoder, start.layers)
    other = build.build_model(smoke(), 5, None, tf.distribute.get_strategy())
    projectors = zip(model.projector.weights, other.projector.weights, strict=True)
    if method == "byol":  # What the weights do not cover is drawn as without them.
        for found, wanted in projectors:
            np.testing.assert_array_equal(found, wanted)


def test_weights_reach_every_replica(source, two_replicas):
    config = smoke(source)
    start = weights.read_start(config)
    model = build.build_model(config, 5, None, two_replicas, start.assign_to)
    kernel = model.target_encoder.get_layer("stem_conv").get_weights()[0]
    np.testing.assert_array_equal(kernel, start.layers["stem_conv"][0])


@pytest.fixture(scope="module")
def run(source, photos, tmp_path_factory):
    """The folder of a run that started from a file which then went away, and its model."""
    folder = tmp_path_factory.mktemp("runs")
    path = shutil.copy(source, folder / "weights.keras")
    config = smoke(path)
    # The weights barely move in a step: where the run started is still seen at its end.
    config.optimizer.base_lr = 1e-6
    model = pretrain.pretrain(config, photos, str(folder / "run"))
    pathlib.Path(path).unlink()
    return folder / "run", config, model


@pytest.mark.slow
def test_a_run_records_what_it_started_from(run, source):
    folder, config, model = run
    recorded = json.loads((folder / "config.json").read_text())
    assert recorded["started_from"] == {
        "from": config.encoder.weights,
        "source": "a .keras file of an encoder",
        "fingerprint": weights.read(str(source)).fingerprint,
    }
    for name, values in weights.read(str(source)).layers.items():
        found = model.encoder.get_layer(name).get_weights()[0]
        np.testing.assert_allclose(found, values[0], atol=1e-4)


@pytest.mark.slow
def test_a_checkpoint_wins_over_the_weights_which_need_not_exist_any_more(run, photos):
    folder, config, model = run
    longer = pretrain.pretrain(config, photos, str(folder))
    assert int(longer.step) == int(model.step)
    for found, wanted in zip(longer.weights, model.weights, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert "started_from" in json.loads((folder / "config.json").read_text())
    config = smoke("elsewhere.keras")
    config.optimizer.base_lr = 1e-6
    with pytest.raises(UserError, match="encoder.weights: .*weights.keras there, elsewhere.keras"):
        pretrain.pretrain(config, photos, str(folder))


@pytest.mark.slow
def test_a_run_and_its_export_are_weights_too(run, tmp_path):
    folder, config, model = run
    config = runs.load_config(str(folder))
    exported = str(tmp_path / "1")
    preprocessing = build.preprocessing_from_config(config)
    card = {"config": config.to_dict()}
    export.save_encoder(model.encoder, exported, preprocessing=preprocessing, metadata=card)
    of_run, of_export = weights.read(str(folder)), weights.read(exported)
    assert of_run.fingerprint == of_export.fingerprint
    assert of_run.method == "byol" and of_run.preprocessing == preprocessing
    assert of_run.encoder["depth"] == 10 and of_export.encoder["padding"] == "same"
    encoder = build.build_encoder(smoke())
    of_export.assign_to(encoder)
    for found, wanted in zip(encoder.get_weights(), model.encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(found, wanted)
    # The run's encoder is built again although the file it started from is gone.
    assert encoders.from_run(str(folder)).trainable().count_params() == encoder.count_params()


@pytest.mark.parametrize(
    "path, encoder, sentence",
    [
        ("nowhere.pth", {}, "there are no weights 'nowhere.pth'; give a run of byol-pretrain"),
        (__file__, {}, "is not a kind of weights that is known"),
        (pathlib.Path(__file__).parent, {}, "is neither a run .* nor a SavedModel"),
        (GOLDEN / "torchvision-resnet18.pth", {"padding": "same"}, "padding 'symmetric'"),
        (GOLDEN / "solo-learn-resnet18.ckpt", {"padding": "symmetric"}, "stem 'solo-learn'"),
        ("imagenet", {}, "keras.applications, which has no 'resnet'"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused(path, encoder, sentence):
    with pytest.raises(UserError, match=sentence):
        weights.read_start(smoke(path, **encoder))


def test_another_architecture_is_refused_before_anything_is_written(photos, tmp_path):
    config = smoke(GOLDEN / "torchvision-resnet18.pth", padding="symmetric")
    for call in (
        lambda: pretrain.pretrain(config, photos, str(tmp_path / "run")),
        lambda: dry_run.plan(config, photos),
    ):
        with pytest.raises(UserError, match="layer 'stem_conv' .*--config.encoder.depth=18"):
            call()
    assert not (tmp_path / "run" / "checkpoints").exists()


def write_legacy_h5(model, path):
    """Writes a file as those of keras.applications are, which Keras 3 reads but does not write."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{number}:0" for number in range(len(layer.weights))]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, value in zip(names, layer.get_weights(), strict=True):
                group[name] = value


IN_A_NEW_PROCESS = """
from absl import logging
from byol_tf.models import backbones
from byol_tf.weights import imagenet
logging.set_verbosity(logging.INFO)
encoder = backbones.build("MobileNetV2", 64, {})
imagenet.read("MobileNetV2").assign_to(encoder)
print(set(encoder.get_layer("Conv1").get_weights()[0].ravel()) == {0.5})
"""


@pytest.mark.slow
def test_imagenet_is_what_keras_has_in_its_cache(tmp_path):
    """Keras's own code reads the file, which stands where a download would put it."""
    cache = tmp_path / ".keras" / "models"
    cache.mkdir(parents=True)
    model = keras.applications.MobileNetV2(include_top=False, weights=None)
    kernel = model.get_layer("Conv1").kernel
    kernel.assign(kernel * 0 + 0.5)
    write_legacy_h5(
        model, cache / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
    )
    # A new process: Keras looks for its home when it is imported.
    home = {"HOME": str(tmp_path), "KERAS_HOME": str(tmp_path / ".keras")}
    command = [sys.executable, "-c", IN_A_NEW_PROCESS]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | home)
    assert result.stdout.strip().endswith("True"), result.stderr
    assert "ImageNet weights of MobileNetV2" in result.stderr


@pytest.mark.slow
def test_a_network_that_normalises_by_itself_gets_images_that_are_normalised(monkeypatch):
    """EfficientNet's own normalisation is among its weights, and would come on top."""
    network = keras.applications.EfficientNetB0
    loaded = network(include_top=False, weights=None)
    normalization = next(layer for layer in loaded.layers if layer.name[:13] == "normalization")
    normalization.set_weights([values + 3 for values in normalization.get_weights()])
    stem = loaded.get_layer("stem_conv").get_weights()[0]
    monkeypatch.setattr(keras.applications, "EfficientNetB0", lambda **_: loaded)
    weights = imagenet.read("EfficientNetB0")
    monkeypatch.setattr(keras.applications, "EfficientNetB0", network)
    encoder = backbones.build("EfficientNetB0", 32, {})
    weights.assign_to(encoder)
    np.testing.assert_array_equal(encoder.get_layer("stem_conv").get_weights()[0], stem)
    (ours,) = (layer for layer in encoder.layers if layer.name[:13] == "normalization")
    image = tf.random.normal([1, 32, 32, 3])
    np.testing.assert_allclose(ours(image), image, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet", "imagenet_utils", "NoSuchNet", ""])
def test_imagenet_is_of_classes_of_keras_applications_only(name):
    with pytest.raises(UserError, match="keras.applications, which has no"):
        imagenet.read(name)


def test_a_network_that_pads_otherwise_gives_other_features():
    """Why the padding of the weights is checked."""
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    same, symmetric = (
        networks.resnet(10, 1 / 32, 32, "small", zero_init_last_gamma=False, padding=padding)
        for padding in ("same", "symmetric")
    )
    symmetric.set_weights(same.get_weights())
    assert np.abs(same(images) - symmetric(images)).max() > 1e-2

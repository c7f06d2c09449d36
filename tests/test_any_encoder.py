"""An encoder by name is pretrained, resumed, evaluated and exported as ours is."""

import importlib.util
import json

import keras
import numpy as np
import pytest
from pictures import copy_photos

from byol_tf import build, encoders, export, runs
from byol_tf.configs import cifar10_demo, defaults
from byol_tf.errors import UserError
from byol_tf.models.stages import stage_outputs
from byol_tf.training import pretrain

ENCODERS = {
    "own_encoders.tiny": {"channels": 8},
    "vit": {"patch_size": 8, "width": 16, "depth": 1, "heads": 2},
    "MobileNetV3Small": {"alpha": 0.35, "minimalistic": True},
    "EfficientNetB0": {},
    "EfficientNetV2B0": {},
    "ConvNeXtTiny": {},
    "ViTBackbone": {
        "patch_size": 8, "num_layers": 1, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 16,
    },
}  # fmt: skip
IMAGES = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
# A minute of tracing each.
LARGE = ("EfficientNetB0", "EfficientNetV2B0", "ConvNeXtTiny")


def config_of(name):
    config = cifar10_demo.get_config("smoke")
    defaults.set_encoder(config, name, **ENCODERS[name])
    config.batch_size, config.knn_examples = 20, 40
    config.precision = "float32"
    return config


@pytest.fixture
def photos(images_dir, tmp_path):
    """40 real images of two classes."""
    return str(copy_photos(images_dir / "train", tmp_path / "photos", ("cat", "truck"), 20))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.exhaustive if name in LARGE else ())
        for name in ENCODERS
    ],
)
def test_the_whole_path(name, photos, tmp_path):
    if name == "ViTBackbone" and not importlib.util.find_spec("keras_hub"):
        pytest.skip("needs KerasHub")
    config = config_of(name)
    run_dir = str(tmp_path / "run")
    model = pretrain.pretrain(config, photos, run_dir)
    before = build.build_encoder(config).get_weights()
    assert any((a != b).any() for a, b in zip(model.encoder.get_weights(), before, strict=True))
    (row,) = runs.read_history(run_dir)
    assert np.isfinite(float(row["loss"])) and float(row["projection_std"]) > 0.01

    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["encoder"] == {"name": name, "weights": None} | ENCODERS[name]
    again = pretrain.pretrain(config, photos, run_dir)  # Nothing left to train.
    for actual, wanted in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(actual, wanted)

    restored = runs.restore_encoder(run_dir)
    wanted = model.encoder(IMAGES, training=False)
    np.testing.assert_allclose(restored(IMAGES, training=False), wanted, rtol=1e-4, atol=1e-4)
    path = tmp_path / "exported" / "1"
    export.save_encoder(
        restored,
        path,
        preprocessing=build.preprocessing_from_config(config),
        metadata={"config": written},
    )
    exported, _ = encoders.from_saved_model(str(path))
    for served in (exported.encode(IMAGES), exported.trainable()(IMAGES, training=False)):
        np.testing.assert_allclose(served, wanted, rtol=1e-4, atol=1e-4)


def test_a_run_from_before_encoders_had_names_is_a_resnet_and_goes_on(tmp_path):
    config = cifar10_demo.get_config("smoke").to_dict()
    old = json.loads(json.dumps(config))
    del old["encoder"]["name"]
    runs.claim_run_dir(str(tmp_path), old)
    assert build.build_encoder(runs.load_config(str(tmp_path))).name == "resnet10_0.25x"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "ckpt-1.index").touch()
    runs.claim_run_dir(str(tmp_path), config)  # The same run.
    config["encoder"] = {"name": "vit"}
    with pytest.raises(
        UserError, match="encoder.depth: 10 there, None given; encoder.name: resnet"
    ):
        runs.claim_run_dir(str(tmp_path), config)


def test_a_run_of_another_encoder_has_that_encoders_fields_only(tmp_path):
    config = config_of("vit").to_dict()
    runs.claim_run_dir(str(tmp_path), config)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "ckpt-1.index").touch()
    runs.claim_run_dir(str(tmp_path), config)
    config["encoder"]["depth"] = 2
    with pytest.raises(UserError, match=r"\(encoder.depth: 1 there, 2 given\)"):
        runs.claim_run_dir(str(tmp_path), config)


def test_fields_of_the_recipes_encoder_are_refused_by_another():
    config = cifar10_demo.get_config("smoke")
    config.encoder.name = "vit"
    with pytest.raises(UserError, match=r"'vit' takes no .*'stem', 'zero_init.*set_encoder"):
        build.build_encoder(config)


def test_a_dense_protocol_says_that_it_needs_a_resnet():
    encoder = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten()], name="mine")
    with pytest.raises(UserError, match="'mine' has no layers c2_block1_relu1 .*name=resnet"):
        stage_outputs(encoder)

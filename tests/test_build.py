"""Methods by name: shipped ones from their recipes, and one from outside byol_tf."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from quick_recipe import quick

from byol_tf import build, encoders
from byol_tf.configs import cifar10_demo, simclr_cifar10, simsiam_cifar10
from byol_tf.errors import UserError
from byol_tf.models import vicreg
from byol_tf.runs import read_history
from byol_tf.training import pretrain


def smoke(method, get_config=cifar10_demo.get_config):
    config = quick(get_config)
    config.method = method
    config.batch_size = 32
    config.knn_every_epochs = 0
    return config


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        smoke("simclr", simclr_cifar10.get_config),
        smoke("simsiam", simsiam_cifar10.get_config),
        smoke("barlow_twins.BarlowTwins"),
    ],
    ids=["simclr", "simsiam", "own method"],
)
def test_a_method_is_pretrained_resumed_and_evaluated_like_byol(config, images_dir, tmp_path):
    run_dir = str(tmp_path / "run")
    model = pretrain.pretrain(config, str(images_dir / "test"), run_dir)
    (row,) = read_history(run_dir)
    assert "ema" not in row and np.isfinite(float(row["loss"])) and int(row["step"]) == 15
    assert json.loads((tmp_path / "run" / "config.json").read_text())["method"] == config.method
    again = pretrain.pretrain(config, str(images_dir / "test"), run_dir)  # Nothing left to train.
    for actual, wanted in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(actual, wanted)
    pretrained = encoders.from_run(run_dir)
    assert pretrained.name == type(model).display_name
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    # In bfloat16 where the machine prefers it.
    wanted = tf.cast(model.encoder(images, training=False), tf.float32)
    np.testing.assert_allclose(pretrained.encode(images), wanted, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    "name", ["barlow", "nowhere.VICReg", "byol_tf.byol.Missing", "keras.Model", "", "."]
)
def test_an_unknown_method_is_named(name):
    with pytest.raises(
        UserError, match="is unknown; give one of byol, simclr, .*, or module.Class"
    ):
        build.find_method(name)


def test_the_class_of_a_method_is_found_by_its_dotted_name():
    import barlow_twins

    assert build.find_method("barlow_twins.BarlowTwins") is barlow_twins.BarlowTwins
    assert build.find_method("vicreg") is vicreg.VICReg


def test_weights_of_the_other_networks_do_not_depend_on_the_online_classifier():
    from byol_tf.models.simclr import SimCLR

    def weights(num_classes):
        keras.utils.set_random_seed(5)
        encoder = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()])
        model = SimCLR(
            encoder, total_steps=1, hidden_size=8, projection_size=4, num_classes=num_classes
        )
        return [weight.numpy() for weight in model.projector.weights]

    for without, with_classifier in zip(weights(None), weights(7), strict=True):
        np.testing.assert_array_equal(without, with_classifier)


def test_a_warm_up_longer_than_the_run_is_warned_of(caplog):
    config = cifar10_demo.get_config("smoke")
    config.precision = "float32"
    config.optimizer.warmup_epochs = 3.0
    with caplog.at_level("WARNING", "absl"):
        build.build_model(config, 2, None, tf.distribute.get_strategy())
    assert "warmup_epochs (3) is longer than the run (1 epochs)" in caplog.text

"""Evaluated encoders have the weights that were trained."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from quick_recipe import FEATURES, quick

from byol_tf import build, checkpoints, encoders, export, keras_compat, runs
from byol_tf.errors import UserError
from byol_tf.evaluation.evaluated_encoder import fingerprint

CONFIG = quick(blocks=2)  # The order of weights shows only with two.
PREPROCESSING = build.preprocessing_from_config(CONFIG)
IMAGES = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype("float32")


@pytest.fixture(scope="module")
def trained():
    keras.utils.set_random_seed(7)
    encoder = build.build_encoder(CONFIG)
    for weight in encoder.weights:  # Moving statistics and zero gammas too.
        weight.assign_add(tf.random.uniform(weight.shape, maxval=0.01))
    return encoder


@pytest.fixture(scope="module")
def run_dir(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    runs.claim_run_dir(str(path), CONFIG.to_dict())
    saved = tf.train.Checkpoint(model=tf.train.Checkpoint(encoder=checkpoints.trackable(trained)))
    saved.save(str(path / "checkpoints" / "ckpt"))
    for version, metadata in (("1", {"config": CONFIG.to_dict()}), ("2", {})):
        export.save_encoder(
            trained, path / "exported" / version, preprocessing=PREPROCESSING, metadata=metadata
        )
    return path


def test_frozen_and_trainable_encoder_of_a_run_are_the_trained_one(run_dir, trained):
    pretrained = encoders.from_run(str(run_dir))
    assert (pretrained.name, pretrained.preprocessing) == ("BYOL", PREPROCESSING)
    wanted = trained(IMAGES, training=False)
    np.testing.assert_allclose(pretrained.encode(IMAGES, training=False), wanted, rtol=1e-5)
    np.testing.assert_allclose(pretrained.trainable()(IMAGES, training=False), wanted, rtol=1e-5)


def test_training_a_trainable_encoder_leaves_the_frozen_one_alone(run_dir):
    pretrained = encoders.from_run(str(run_dir))
    before = pretrained.encode(IMAGES, training=False).numpy()
    first, second = pretrained.trainable(), pretrained.trainable()
    first.trainable_weights[0].assign_add(tf.ones_like(first.trainable_weights[0]))
    np.testing.assert_array_equal(pretrained.encode(IMAGES, training=False), before)
    np.testing.assert_array_equal(second(IMAGES, training=False), before)


def test_a_saved_model_can_be_trained_further_where_its_card_has_the_config(run_dir, trained):
    pretrained, config = encoders.from_saved_model(str(run_dir / "exported" / "1"))
    assert config.encoder.to_dict() == CONFIG.encoder.to_dict()
    wanted = trained(IMAGES, training=False)
    np.testing.assert_allclose(pretrained.encode(IMAGES), wanted, rtol=1e-5)
    np.testing.assert_allclose(pretrained.trainable()(IMAGES, training=False), wanted, rtol=1e-5)


def test_a_saved_models_weights_are_in_an_order_that_either_keras_keeps(run_dir, trained):
    model, _, _ = export.load_saved_model(str(run_dir / "exported" / "1"))
    trainable = [w for layer in trained.layers for w in layer.trainable_weights]
    statistics = [w for layer in trained.layers for w in layer.non_trainable_weights]
    for saved, weight in zip(model.weights, trainable + statistics, strict=True):
        np.testing.assert_array_equal(saved.numpy(), weight.numpy())


def test_a_saved_model_without_config_is_evaluated_but_not_trained(run_dir):
    pretrained, config = encoders.from_saved_model(str(run_dir / "exported" / "2"))
    assert config is None and pretrained.encode(IMAGES).shape == (3, FEATURES)
    with pytest.raises(UserError, match="'encoder' cannot be trained further"):
        pretrained.trainable()


def test_a_saved_model_whose_weights_are_in_another_order_gets_a_sentence(
    trained, tmp_path, monkeypatch
):
    def by_layer(encoder):  # As Keras 3 lists them.
        return [keras_compat.native(w) for layer in encoder.layers for w in layer.weights]

    with monkeypatch.context() as patch:
        patch.setattr(export.encoder, "saved_weights", by_layer)
        export.save_encoder(
            trained,
            tmp_path / "1",
            preprocessing=PREPROCESSING,
            metadata={"config": CONFIG.to_dict()},
        )
    pretrained, _ = encoders.from_saved_model(str(tmp_path / "1"))
    with pytest.raises(UserError, match=r"/1' are not in the order and shapes of .*export its run"):
        pretrained.trainable()


def test_fingerprints_tell_weights_and_files_apart(run_dir, trained):
    first = encoders.from_run(str(run_dir)).fingerprint
    assert first == encoders.from_run(str(run_dir)).fingerprint
    copy = keras.models.clone_model(trained)
    copy.set_weights(trained.get_weights())
    weights = trained.get_weights()
    weights[-1] = weights[-1] + 1e-6
    same = fingerprint(copy)
    copy.set_weights(weights)
    assert fingerprint(copy) != same
    exported = [
        encoders.from_saved_model(str(run_dir / "exported" / v))[0].fingerprint for v in "12"
    ]
    assert len({first, *exported}) == 3


def test_the_random_encoder_is_the_configs_seed_and_no_other():
    random = encoders.random_encoder(CONFIG, PREPROCESSING)
    again = encoders.random_encoder(CONFIG, PREPROCESSING)
    assert random.fingerprint == again.fingerprint
    np.testing.assert_array_equal(random.trainable()(IMAGES), random.encode(IMAGES))
    other = quick(blocks=2)
    other.seed = 1
    assert encoders.random_encoder(other, PREPROCESSING).fingerprint != random.fingerprint


def test_raw_pixels_are_the_pixels():
    pixels = encoders.raw_pixels(PREPROCESSING)
    np.testing.assert_array_equal(pixels.encode(IMAGES), IMAGES.reshape(3, -1))
    assert pixels.build is None

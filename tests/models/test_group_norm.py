"""GroupNorm and weight standardisation against NumPy written from their papers, and in training."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from byol_tf import checkpoints, export
from byol_tf.errors import UserError
from byol_tf.models import group_norm, networks, optimizers
from byol_tf.models.byol import BYOL


def make_encoder():
    return networks.resnet(depth=10, width=0.25, image_size=32, stem="small", norm="group")


@pytest.fixture(scope="module")
def encoder():
    keras.utils.set_random_seed(0)
    return make_encoder()


def test_group_norm_is_equation_7_of_its_paper():
    maps = np.random.default_rng(0).normal(3, 2, (2, 5, 5, 24)).astype("float32")
    layer = group_norm.GroupNorm()
    actual = layer(maps)
    groups = 8  # The most, up to 16, that divide 24 channels.
    split = maps.reshape(2, 5, 5, groups, 3)
    mean = split.mean(axis=(1, 2, 4), keepdims=True)
    variance = split.var(axis=(1, 2, 4), keepdims=True)
    wanted = ((split - mean) / np.sqrt(variance + 1e-5)).reshape(maps.shape)
    np.testing.assert_allclose(actual, wanted, atol=1e-4)
    assert layer.groups == groups


def test_a_convolution_is_by_the_standardised_kernel():
    images = np.random.default_rng(0).normal(size=(2, 6, 6, 4)).astype("float32")
    layer = group_norm.WeightStandardizedConv2D(8, 3, use_bias=False)
    layer.build((None, 6, 6, 4))
    kernel = np.random.default_rng(1).normal(2, 0.1, (3, 3, 4, 8)).astype("float32")
    layer.kernel.assign(kernel)
    flat = kernel.reshape(-1, 8)  # Per output channel.
    standard = ((flat - flat.mean(0)) / flat.std(0)).reshape(kernel.shape)
    wanted = tf.nn.conv2d(images, standard, 1, "VALID")
    np.testing.assert_allclose(layer(images), wanted, rtol=1e-4, atol=1e-4)
    with tf.GradientTape() as tape:
        layer.kernel.assign(tf.ones_like(kernel))  # No deviation.
        loss = tf.reduce_sum(layer(images))
    assert np.isfinite(tape.gradient(loss, layer.trainable_weights[0])).all()


def test_an_encoder_keeps_its_shape_and_loses_its_statistics(encoder):
    batch = networks.resnet(depth=10, width=0.25, image_size=32, stem="small")
    assert encoder.name == batch.name and encoder.output_shape == batch.output_shape
    assert encoder.count_params() == sum(np.prod(w.shape) for w in batch.trainable_weights)
    assert not encoder.non_trainable_weights
    assert all(
        isinstance(layer, group_norm.WeightStandardizedConv2D)
        for layer in encoder.layers
        if isinstance(layer, keras.layers.Conv2D)
    )
    gammas = encoder.get_layer("c2_block1_gn2").get_weights()[0]
    np.testing.assert_array_equal(gammas, 0)  # zero_init_last_gamma


def test_an_image_does_not_depend_on_its_batch_in_training(encoder):
    images = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype("float32")
    together = encoder(images, training=True)
    alone = encoder(images[:1], training=True)
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-5)


def small_convnet():
    images = x = keras.Input((16, 16, 3))
    for channels in (16, 32):
        x = keras.layers.Conv2D(channels, 3, 2, use_bias=False)(x)
        x = keras.layers.ReLU()(networks.BatchNorm()(x))
    pooled = keras.layers.GlobalAveragePooling2D()(x)
    return group_norm.without_batch_norm(keras.Model(images, pooled))


def test_byol_trains_and_its_encoder_is_restored_and_exported(tmp_path):
    encoder = small_convnet()
    model = BYOL(encoder, total_steps=4, projection_size=16, hidden_size=32, head_norm="group")
    statistics = [w for part in (*model.trained, *model.targets) for w in part.weights]
    assert not [w for w in statistics if "moving" in w.name]
    model.compile(optimizers.LARS(1.0))
    before = encoder.get_weights()
    views = np.random.default_rng(0).normal(size=(2, 4, 16, 16, 3)).astype("float32")
    losses = [model.train_on_batch(tuple(views), return_dict=True)["loss"] for _ in range(2)]
    assert np.isfinite(losses).all()
    assert all(np.abs(a - b).max() > 0 for a, b in zip(encoder.get_weights(), before, strict=True))

    path = tf.train.Checkpoint(encoder=checkpoints.trackable(encoder)).save(str(tmp_path / "c"))
    restored = small_convnet()
    checkpoints.restore(tf.train.Checkpoint(encoder=checkpoints.trackable(restored)), path)
    np.testing.assert_array_equal(restored(views[0]), encoder(views[0]))
    export.save_encoder(restored, tmp_path / "1", image_size=16)  # Compares outputs itself.


def test_an_unknown_norm_is_named():
    for build in (networks.resnet, lambda norm: networks.mlp(8, 4, "projector", norm=norm)):
        with pytest.raises(UserError, match="norm 'layer' is unknown; give one of batch, group"):
            build(norm="layer")

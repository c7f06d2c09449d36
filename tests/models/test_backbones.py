"""Encoders by name: what other packages' networks become, and mistakes in one sentence."""

import importlib.util
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from byol_tf import keras_compat
from byol_tf.errors import UserError
from byol_tf.export.float32 import in_float32
from byol_tf.models import backbones
from byol_tf.models.precision import policy_scope

IMAGES = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")
VIT = {"patch_size": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8}
DINO = {"patch_size": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 8}
SMALLEST = {"alpha": 0.35, "minimalistic": True}


@pytest.fixture(scope="module")
def efficientnet():
    return backbones.build("EfficientNetB0", 32, {})


@pytest.fixture(scope="module")
def mobilenet():
    with policy_scope("mixed_bfloat16"):
        return backbones.build("MobileNetV3Small", 32, SMALLEST)


def layers_of(model, kind):
    return [layer for layer in keras_compat.sublayers(model) if isinstance(layer, kind)]


def test_ours_get_their_arguments():
    encoder = backbones.build("resnet", 32, {"depth": 18, "width": 0.125, "stem": "small"})
    assert encoder.name == "resnet18_0.125x" and encoder.output_shape == (None, 64)


def test_a_network_that_preprocesses_without_an_argument_for_it_sees_normalised_images(
    efficientnet,
):
    """EfficientNet divides by 255; without that, our images would be almost zero for it."""
    stem = keras.Model(efficientnet.inputs, efficientnet.get_layer("stem_conv").input)
    padded = np.pad(IMAGES, [(0, 0), (0, 1), (0, 1), (0, 0)])
    np.testing.assert_allclose(stem(IMAGES), padded, rtol=1e-6)


def test_a_network_has_no_noise_in_its_fixed_parts(efficientnet):
    assert layers_of(efficientnet, keras.layers.Dropout)  # Stochastic depth, 0.2 at the end.
    copy = type(efficientnet).from_config(efficientnet.get_config())  # As the target is made.
    for model in (efficientnet, copy):
        assert all(layer.rate == 0 for layer in layers_of(model, keras.layers.Dropout))


def test_arguments_reach_the_network_and_its_own_preprocessing_is_off(mobilenet):
    assert mobilenet.name == "MobileNetV3Small"
    assert mobilenet.input_shape == (None, 32, 32, 3)
    assert not layers_of(mobilenet, keras.layers.Rescaling)
    whole = keras.applications.MobileNetV3Small(
        (32, 32, 3), weights=None, include_top=False, pooling="avg", **SMALLEST
    )
    assert mobilenet.output_shape == whole.output_shape
    assert mobilenet.count_params() == whole.count_params()


def test_the_representation_is_float32_in_half_precision(mobilenet):
    half = [layer for layer in keras_compat.sublayers(mobilenet) if layer.weights]
    assert {layer.compute_dtype for layer in half} == {"bfloat16"}
    assert mobilenet.outputs[0].dtype == "float32"


def test_batch_norm_has_the_methods_decay(mobilenet):
    norms = layers_of(mobilenet, keras.layers.BatchNormalization)
    assert norms and {layer.momentum for layer in norms} == {0.9}


def test_batch_norm_of_your_own_is_synchronised_over_replicas(two_replicas):
    """The output is that of the whole batch's statistics, computed here in NumPy."""
    with two_replicas.scope():
        encoder = backbones.build("own_encoders.tiny", 8, {"channels": 2})
    halves = IMAGES[:, :8, :8] * np.arange(1, 5)[:, None, None, None]  # Two unlike halves.
    shards = two_replicas.experimental_distribute_values_from_function(
        lambda context: tf.constant(np.split(halves, 2)[context.replica_id_in_sync_group])
    )
    step = tf.function(lambda images: encoder(images, training=True))
    outputs = np.concatenate(
        two_replicas.experimental_local_results(two_replicas.run(step, (shards,)))
    )

    convolved = tf.nn.conv2d(halves, keras_compat.native(encoder.weights[0]).numpy(), 2, "VALID")
    mean, variance = (np.asarray(x) for x in tf.nn.moments(convolved, [0, 1, 2]))
    normalised = (convolved - mean) / np.sqrt(variance + 1e-3)
    np.testing.assert_allclose(outputs, np.maximum(normalised, 0).mean((1, 2)), rtol=1e-4)
    assert not layers_of(
        backbones.build("own_encoders.tiny", 8, {}), keras.layers.BatchNormalization
    )[0].synchronized


def test_a_convnexts_head_norm_is_kept():
    """It comes after the pooling, so pooling the maps ourselves would lose it."""
    encoder = backbones.build("ConvNeXtTiny", 32, {})
    assert isinstance(encoder.layers[-2], keras.layers.LayerNormalization)
    assert not layers_of(encoder, keras.layers.Normalization)  # Its own preprocessing.


hub = pytest.mark.skipif(not importlib.util.find_spec("keras_hub"), reason="needs KerasHub")


@hub
@pytest.mark.parametrize(
    "name, arguments, pooled",
    [
        ("ViTBackbone", VIT, lambda tokens: tokens[:, 0]),
        ("ViTBackbone", VIT | {"use_class_token": False}, lambda tokens: tokens.mean(1)),
        (
            "DINOV2Backbone",
            DINO | {"position_embedding_shape": (32, 32, 3)},
            lambda tokens: tokens[:, 0],
        ),
        ("DINOV3Backbone", DINO, lambda tokens: tokens[:, 0]),
    ],
)
def test_tokens_of_kerashub_become_one_vector(name, arguments, pooled):
    encoder = backbones.build(name, 32, arguments)
    (backbone,) = (layer for layer in encoder.layers if isinstance(layer, keras.Model))
    inputs = backbone.input
    tokens = backbone(dict.fromkeys(inputs, IMAGES) if isinstance(inputs, dict) else IMAGES).numpy()
    assert tokens.ndim == 3 and encoder.output_shape == (None, 8)
    wanted = pooled(tokens)
    np.testing.assert_allclose(encoder(IMAGES), wanted, rtol=1e-5, atol=1e-6)
    with policy_scope("mixed_bfloat16"):
        half = backbones.build(name, 32, arguments)
    half.set_weights(encoder.get_weights())
    assert half.outputs[0].dtype == "float32"
    whole = in_float32(half)  # As it is exported; also a copy from the config.
    np.testing.assert_allclose(whole(IMAGES), wanted, rtol=1e-5, atol=1e-6)


@hub
@pytest.mark.parametrize(
    "name, arguments, sentence",
    [
        ("ViTBackbon", {}, r"did you mean ViTBackbone"),
        ("BertBackbone", {}, "takes no images"),
        ("ViTBackbone", {}, "needs patch_size, num_layers"),
        ("ViTBackbone", VIT | {"patch_size": 5}, "should be divisible by patch size"),
    ],
)
def test_mistakes_with_kerashub_are_one_sentence(name, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        backbones.build(name, 32, arguments)


@pytest.mark.skipif(bool(importlib.util.find_spec("keras_hub")), reason="KerasHub is installed")
def test_a_missing_kerashub_is_named_with_the_command_that_installs_it():
    with pytest.raises(UserError, match=r"needs KerasHub .*pip install keras-hub"):
        backbones.build("ViTBackbone", 32, VIT)


@pytest.mark.parametrize(
    "name, arguments, sentence",
    [
        ("ResNet5", {}, "'ResNet5' is unknown; did you mean ResNet50, .*resnet.*module.function"),
        ("convnexttiny", {}, "did you mean ConvNeXtTiny"),
        ("", {}, "'' is unknown; give resnet or vit"),
        ("zzz", {}, "'zzz' is unknown; give resnet or vit, a network of keras.applications"),
        ("resnet", {"dept": 18}, "'resnet' takes no 'dept'; it takes depth, width, stem"),
        ("ResNet50", {"depth": 18}, "takes no 'depth'; it takes no arguments"),
        ("MobileNetV3Small", {"classes": 3}, "takes no 'classes'; it takes alpha, minimalistic"),
        ("MobileNetV3Small", {"alpha": "big"}, "cannot be built for images of .*'alpha': 'big'"),
        ("nowhere.encoder", {}, "cannot be imported .*module.function of your own"),
        ("own_encoders.missing", {}, "cannot be imported"),
        ("own_encoders.tiny", {"width": 2}, "takes no 'width'; it takes channels"),
        ("own_encoders.maps", {}, r"\[B, D\]"),
        ("own_encoders.without_size", {}, "takes no image_size"),
        ("own_encoders.another_size", {}, r"takes images \(None, 16, 16, 3\)"),
        ("own_encoders.weights_only", {}, "is list and not a built Keras model"),
        ("own_encoders.impossible", {}, "cannot be built for images of 32 .*-1"),
        ("own_encoders.keras", {}, "is no function"),
    ],
)
def test_mistakes_are_one_sentence(name, arguments, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        backbones.build(name, 32, arguments)
    assert not re.search(r"\n", str(caught.value))


def test_an_image_size_that_a_network_cannot_take_is_named():
    with pytest.raises(UserError, match=r"'InceptionV3' cannot be built .*\(32, 32, 3\).*75x75"):
        backbones.build("InceptionV3", 32, {})


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("resnet", {"depth": 10, "width": 0.25, "stem": "small"}),
        ("vit", {"patch_size": 16, "width": 8, "depth": 1, "heads": 2}),
        ("MobileNetV3Small", SMALLEST),
    ],
)
def test_an_encoder_takes_images_of_any_number_of_channels(name, arguments):
    encoder = backbones.build(name, 32, arguments, 5)
    assert encoder.input_shape == (None, 32, 32, 5)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 5)).astype("float32")
    before = encoder(images, training=False).numpy()
    images[..., 4] *= -1  # The last channel counts too.
    assert np.abs(encoder(images, training=False) - before).max() > 1e-6


def test_a_function_that_takes_no_channels_gets_a_sentence():
    with pytest.raises(UserError, match="takes no channels; add that argument"):
        backbones.build("own_encoders.maps", 32, {}, 5)
    with pytest.raises(UserError, match=r"takes images .*3\), but image_size and channels give"):
        backbones.build("own_encoders.tiny", 32, {}, 5)  # Its `channels` are its own.
    with pytest.raises(UserError, match="takes no 'channels'"):
        backbones.build("resnet", 32, {"channels": 5})

import keras
import numpy as np
import pytest
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.models import networks
from byol_tf.models.stages import stage_outputs

# The ends of the stages, from the layer names that networks.py promises.
ENDS = {
    18: ["c2_block2_relu2", "c3_block2_relu2", "c4_block2_relu2", "c5_block2_relu2"],
    50: ["c2_block3_relu3", "c3_block4_relu3", "c4_block6_relu3", "c5_block3_relu3"],
}


def random_encoder(depth=18, width=0.125, image_size=32, stem="small", seed=0):
    """Returns an encoder with no initial weights left: γ = 0 would hide every branch."""
    encoder = networks.resnet(depth, width, image_size, stem)
    rng = np.random.default_rng(seed)
    encoder.set_weights(
        [
            rng.uniform(0.5, 1.5, weight.shape)  # γ, β, mean and variance
            if weight.ndim == 1
            else rng.normal(0, np.sqrt(2 / np.prod(weight.shape[:3])), weight.shape)
            for weight in encoder.get_weights()
        ]
    )
    return encoder


def images(height, width, batch=2, seed=1):
    return np.random.default_rng(seed).normal(size=(batch, height, width, 3)).astype(np.float32)


@pytest.mark.parametrize("depth", [18, 50])
def test_stages_are_the_encoders_own_layers(depth):
    encoder = random_encoder(depth)
    layers = [encoder.get_layer(name).output for name in ENDS[depth]]
    expected = keras.Model(encoder.inputs, [*layers, encoder.output]).predict(
        images(32, 32), verbose=0
    )
    stages = stage_outputs(encoder)(images(32, 32))
    assert list(stages) == ["c2", "c3", "c4", "c5"]
    for stage, value in zip(stages.values(), expected[:-1], strict=True):
        np.testing.assert_allclose(stage, value, rtol=1e-3, atol=1e-3)
    average = np.mean(stages["c5"], axis=(1, 2))
    np.testing.assert_allclose(average, expected[-1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("stem, strides", [("imagenet", (4, 8, 16, 32)), ("small", (1, 2, 4, 8))])
@pytest.mark.parametrize("dilated", [False, True])
def test_strides_for_any_input_size(stem, strides, dilated):
    stages = stage_outputs(random_encoder(stem=stem), dilated_c5=dilated)
    if dilated:
        strides = (*strides[:3], strides[2])
    for height, width in ((64, 96), (35, 50)):
        shapes = [stage.shape for stage in stages(images(height, width)).values()]
        assert shapes == [
            (2, -(-height // stride), -(-width // stride), channels)
            for stride, channels in zip(strides, (8, 16, 32, 64), strict=True)
        ]


def test_a_given_image_size_makes_the_shapes_static():
    stages = stage_outputs(random_encoder(), image_size=48)
    shapes = {stage: x.shape for stage, x in stages(keras.Input((48, 48, 3))).items()}
    assert shapes["c2"] == (None, 48, 48, 8)
    assert shapes["c5"] == (None, 6, 6, 64)


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("dilated", [False, True])
def test_every_parameter_is_there_and_trainable(depth, dilated):
    encoder = random_encoder(depth)
    stages = stage_outputs(encoder, dilated_c5=dilated)
    assert stages.count_params() == encoder.count_params()
    assert len(stages.trainable_weights) == len(encoder.trainable_weights)


def test_dilated_c5_is_c5_computed_by_hand():
    """Uses kernels spread over 5x5 with zeros between, instead of a dilated convolution."""
    encoder = random_encoder()
    stages = stage_outputs(encoder, dilated_c5=True)(images(48, 32))

    def conv(x, name):
        kernel = encoder.get_layer(name).get_weights()[0]
        if kernel.shape[0] == 3:
            spread = np.zeros((5, 5, *kernel.shape[2:]), np.float32)
            spread[::2, ::2] = kernel
            kernel = spread
        return tf.nn.conv2d(x, kernel, 1, "SAME").numpy()

    def batch_norm(x, name):
        gamma, beta, mean, variance = encoder.get_layer(name).get_weights()
        return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    x = stages["c4"].numpy()
    for block in ("c5_block1", "c5_block2"):
        branch = batch_norm(conv(x, f"{block}_conv1"), f"{block}_bn1")
        branch = conv(np.maximum(branch, 0), f"{block}_conv2")
        branch = batch_norm(branch, f"{block}_bn2")
        if block == "c5_block1":
            x = batch_norm(conv(x, f"{block}_shortcut_conv"), f"{block}_shortcut_bn")
        x = np.maximum(x + branch, 0)
    np.testing.assert_allclose(stages["c5"], x, rtol=1e-3, atol=1e-3)


def test_the_encoder_is_left_as_it_is():
    encoder = random_encoder()
    before = encoder.get_weights()
    stages = stage_outputs(encoder, dilated_c5=True)
    stages.set_weights([np.zeros_like(weight) for weight in stages.get_weights()])
    assert all(map(np.array_equal, before, encoder.get_weights()))
    assert encoder.get_layer("c5_block1_conv1").strides == (2, 2)


def test_batch_norm_is_synchronised_as_the_strategy_asks(two_replicas):
    encoder = random_encoder()

    def synchronised(stages):
        norms = [layer for layer in stages.layers if isinstance(layer, networks.BatchNorm)]
        assert len(norms) == 20
        return {norm.synchronized for norm in norms}

    assert synchronised(stage_outputs(encoder)) == {False}
    with two_replicas.scope():
        assert synchronised(stage_outputs(encoder)) == {True}


def test_an_encoder_that_was_saved_and_loaded_has_stages(tmp_path):
    encoder = random_encoder()
    encoder.save(tmp_path / "encoder.keras")
    loaded = stage_outputs(keras.models.load_model(tmp_path / "encoder.keras"))
    for stage, value in stage_outputs(encoder)(images(32, 32)).items():
        np.testing.assert_array_equal(loaded(images(32, 32))[stage], value)


@pytest.mark.parametrize(
    "encoder",
    [
        keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()], name="pixels"),
        lambda images, training=False: images,
    ],
)
def test_another_encoder_is_an_error_that_names_the_layers(encoder):
    with pytest.raises(UserError, match="has no layers c2_block1_relu1 and so on"):
        stage_outputs(encoder)

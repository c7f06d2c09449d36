import keras
import numpy as np
import pytest
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.export import float32


def encoder(policy, *extra):
    """Returns a model in a model, so that the config has policies at two depths."""
    keras.mixed_precision.set_global_policy(policy)
    try:
        inner = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), *extra])
        pool = keras.layers.GlobalAveragePooling2D()
        return keras.Sequential([keras.Input((8, 8, 3)), inner, pool])
    finally:
        keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_half_precision_is_left_behind_and_weights_are_kept(policy):
    original = encoder(policy)
    copy = float32.in_float32(original)
    images = tf.random.stateless_normal([5, 8, 8, 3], [0, 1])
    kernel, bias = (tf.cast(weight, tf.float32) for weight in original.weights)
    expected = tf.reduce_mean(tf.nn.conv2d(images, kernel, 1, "VALID") + bias, [1, 2]).numpy()
    np.testing.assert_allclose(copy(images), expected, atol=1e-6)
    assert np.abs(tf.cast(original(images), tf.float32) - expected).max() > 1e-5
    assert keras.mixed_precision.global_policy().name == "float32"


def test_a_float32_encoder_is_not_copied():
    original = encoder("float32")
    assert float32.in_float32(original) is original


def test_a_layer_without_a_config_is_asked_for_one():
    class Scale(keras.layers.Layer):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def call(self, images):
            return images * self.factor

    with pytest.raises(UserError, match="register_keras_serializable"):
        float32.in_float32(encoder("mixed_bfloat16", Scale(2.0)))

"""Networks without batch statistics: group normalisation and weight standardisation.

BYOL works with them (Richemond et al. 2020, arXiv 2010.10241: 73.9 % top-1 where BatchNorm has
74.3 %): no image then depends on the others of its batch, replicas need not synchronise, and a
batch may be as small as the memory asks.
"""

import math
from typing import Any

import keras
import tensorflow as tf

from byol_tf.errors import UserError

NORMS = ("batch", "group")
_GROUPS = 16


def check_norm(norm: str) -> str:
    """Returns `norm`.

    Raises:
        UserError: It is not one of `NORMS`.
    """
    if norm not in NORMS:
        raise UserError(f"the norm '{norm}' is unknown; give one of {', '.join(NORMS)}.")
    return norm


@keras.saving.register_keras_serializable("byol_tf")
class GroupNorm(keras.layers.GroupNormalization):
    """GroupNorm (Wu and He 2018, arXiv 1803.08494) of 16 groups, or as many as divide the channels.

    The groups are counted when the layer is built. Eps is 1e-5, as in BatchNorm here.
    """

    groups: int

    def __init__(self, groups: int = _GROUPS, epsilon: float = 1e-5, **kwargs: Any):
        super().__init__(groups=groups, epsilon=epsilon, **kwargs)

    def build(self, input_shape: Any) -> None:
        """Creates scale and offset."""
        self.groups = math.gcd(self.groups, input_shape[-1])
        super().build(input_shape)

    def call(self, inputs: tf.Tensor, mask: Any = None) -> tf.Tensor:
        """Normalises `inputs`; a mask, which Keras 3 gave the BatchNorm before, has no effect."""
        return super().call(inputs)


@keras.saving.register_keras_serializable("byol_tf")
class WeightStandardizedConv2D(keras.layers.Conv2D):
    """A convolution by its kernel with mean 0 and variance 1 per output channel.

    Qiao et al. 2019, arXiv 1903.10520, equation 4. The standardisation is in float32.
    """

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """Convolves `inputs` with the standardised kernel `[kH, kW, in, out]`."""
        weights = tf.cast(tf.convert_to_tensor(kernel), tf.float32)
        mean, variance = tf.nn.moments(weights, axes=[0, 1, 2], keepdims=True)
        standardized = (weights - mean) * tf.math.rsqrt(variance + 1e-10)
        return super().convolution_op(inputs, tf.cast(standardized, inputs.dtype))


def without_batch_norm(network: keras.Model) -> keras.Model:
    """Returns the functional `network`, newly initialised, with GroupNorm instead of BatchNorm.

    Its convolutions standardise their weights. Layers named `..._bn...` become `..._gn...`.
    """

    def replaced(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if isinstance(layer, keras.layers.BatchNormalization):
            kept = ("center", "scale", "beta_initializer", "gamma_initializer", "dtype")
            name = config["name"].replace("_bn", "_gn")
            return GroupNorm(name=name, **{key: config[key] for key in kept})
        if isinstance(layer, keras.layers.Conv2D):
            return WeightStandardizedConv2D.from_config(config)
        return type(layer).from_config(config)

    return keras.models.clone_model(network, clone_function=replaced)

"""Encoders without half precision and XLA, so that exported graphs run anywhere."""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.models.precision import policy_scope

_HALF = ("bfloat16", "float16")


def in_float32(encoder: keras.Model) -> keras.Model:
    """Returns the encoder, or a float32 copy of it if it computes in half precision.

    Raises:
        UserError: The encoder cannot be rebuilt from its config.
    """
    if not any(layer.compute_dtype in _HALF for layer in _layers(encoder)):
        return encoder

    def convert(config):
        if isinstance(config, dict):
            if config.get("class_name") == "Policy":
                return "float32"
            config = {key: convert(value) for key, value in config.items()}
            return config | ({"dtype": "float32"} if config.get("dtype") in _HALF else {})
        if isinstance(config, (list, tuple)):
            return type(config)(convert(value) for value in config)
        return config

    try:
        config = convert(keras.saving.serialize_keras_object(encoder))
        with policy_scope("float32"):
            # Safe: the code of a Lambda layer is from the encoder in memory, not from a file.
            copy = keras.saving.deserialize_keras_object(config, safe_mode=False)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise UserError(
            f"the encoder '{encoder.name}' cannot be rebuilt in float32 from its config ({error}); "
            "register its custom layers with keras.saving.register_keras_serializable."
        ) from error
    copy.set_weights(encoder.get_weights())
    return copy


@contextlib.contextmanager
def without_xla(encoder: keras.Model) -> Iterator[None]:
    """Makes Keras trace grouped convolutions without XLA, which only their gradient needs.

    Keras 2.15 has no public switch for it: a grouped convolution calls its private, compiled
    `_jit_compiled_convolution_op`, which this shadows on the layer.
    """
    convolutions = [part for part in _layers(encoder) if hasattr(part, "convolution_op")]
    grouped = [convolution for convolution in convolutions if convolution.groups > 1]
    for layer in grouped:
        # Not inlined: without oneDNN, Grappler would fuse it with the bias or BatchNorm after it,
        # and TensorFlow's fused kernel does not support groups.
        layer._jit_compiled_convolution_op = tf.function(
            layer.convolution_op, autograph=False, experimental_attributes={"_noinline": True}
        )
    try:
        yield
    finally:
        for layer in grouped:
            del layer._jit_compiled_convolution_op


def _layers(encoder: keras.Model) -> list[keras.layers.Layer]:
    return [part for part in (encoder, *encoder.submodules) if isinstance(part, keras.layers.Layer)]

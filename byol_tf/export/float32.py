"""Encoders without half precision, so that exported graphs run anywhere."""

from typing import Any

import keras

from byol_tf.export.rebuilt import rebuilt
from byol_tf.keras_compat import sublayers

_HALF = ("bfloat16", "float16")


def in_float32(encoder: keras.Model) -> keras.Model:
    """Returns the encoder, or a float32 copy of it if it computes in half precision.

    Raises:
        UserError: The encoder cannot be rebuilt from its config.
    """
    if not any(layer.compute_dtype in _HALF for layer in sublayers(encoder)):
        return encoder
    return rebuilt(encoder, _without_half, "in float32")


def _without_half(config: dict) -> Any:
    if config.get("class_name") in ("Policy", "DTypePolicy"):
        return "float32"
    return config | ({"dtype": "float32"} if config.get("dtype") in _HALF else {})

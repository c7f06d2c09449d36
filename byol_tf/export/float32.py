"""Encoders without half precision, so that exported graphs run anywhere."""

import keras

from byol_tf.errors import UserError
from byol_tf.keras_compat import sublayers
from byol_tf.models.precision import policy_scope

_HALF = ("bfloat16", "float16")


def in_float32(encoder: keras.Model) -> keras.Model:
    """Returns the encoder, or a float32 copy of it if it computes in half precision.

    Raises:
        UserError: The encoder cannot be rebuilt from its config.
    """
    if not any(layer.compute_dtype in _HALF for layer in sublayers(encoder)):
        return encoder

    def convert(config):
        if isinstance(config, dict):
            if config.get("class_name") in ("Policy", "DTypePolicy"):
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

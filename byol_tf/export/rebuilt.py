"""Copies of Keras models with another config and the same weights."""

from collections.abc import Callable
from typing import Any

import keras

from byol_tf.errors import UserError
from byol_tf.models.precision import policy_scope


def rebuilt(model: keras.Model, change: Callable[[dict], Any], purpose: str) -> keras.Model:
    """Returns a copy of the model in float32, each part of whose config went through `change`.

    Args:
        model: The model; its weights are copied.
        change: Function from a dict of the config, at any depth, to what stands for it; the dicts
            inside have been through it.
        purpose: What the copy is for, as in "the encoder cannot be rebuilt {purpose}".

    Raises:
        UserError: The model cannot be rebuilt from its config.
    """

    def convert(config: Any) -> Any:
        if isinstance(config, dict):
            return change({key: convert(value) for key, value in config.items()})
        if isinstance(config, (list, tuple)):
            return type(config)(convert(value) for value in config)
        return config

    try:
        config = convert(keras.saving.serialize_keras_object(model))
        with policy_scope("float32"):
            # Safe: the code of a Lambda layer is from the model in memory, not from a file.
            copy = keras.saving.deserialize_keras_object(config, safe_mode=False)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise UserError(
            f"the encoder '{model.name}' cannot be rebuilt {purpose} from its config ({error}); "
            "register its custom layers with keras.saving.register_keras_serializable."
        ) from error
    copy.set_weights(model.get_weights())
    return copy

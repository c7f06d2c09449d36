"""An encoder under evaluation: frozen, or as a Keras model to train further."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable

import keras
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.images.preprocessing import Preprocessing


@dataclasses.dataclass(frozen=True)
class EvaluatedEncoder:
    """An encoder under evaluation; `byol_tf.encoders` makes them from runs and SavedModels.

    Attributes:
        name: Name of its row in the results.
        encode: The frozen encoder, called as `encode(images, training=False)`: preprocessed images
            float32 `[B, S, S, 3]` -> `[B, D]`.
        preprocessing: Preprocessing of those images.
        fingerprint: Hex digits that identify architecture and weights.
        build: Function that returns a new Keras model with the same weights, in float32; None where
            nothing can be trained: raw pixels, or a SavedModel without its config.
    """

    name: str
    encode: Callable[..., tf.Tensor]
    preprocessing: Preprocessing
    fingerprint: str
    build: Callable[[], keras.Model] | None = None

    def trainable(self) -> keras.Model:
        """Returns a new Keras model to fine-tune: float32 `[B, S, S, 3]` -> `[B, D]`.

        Raises:
            UserError: The encoder cannot be trained.
        """
        if self.build is None:
            raise UserError(
                f"'{self.name}' cannot be trained further: it is not a Keras model; evaluate a "
                "run of byol-pretrain, or a SavedModel that byol-export made from one."
            )
        return self.build()


def fingerprint(encoder: keras.Model) -> str:
    """Returns 32 hex digits of the SHA-256 of a Keras model's layers and weights."""
    text = json.dumps(encoder.get_config(), sort_keys=True, default=str)
    # Keras numbers the layers that have no name of their own over a whole session.
    digest = hashlib.sha256(re.sub(r'_\d+"', '"', text).encode())
    for weight in encoder.get_weights():
        digest.update(weight.tobytes())
    return digest.hexdigest()[:32]

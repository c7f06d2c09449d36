"""The encoder that is evaluated: frozen, and as a Keras model to train further."""

import dataclasses
import hashlib
import json
from collections.abc import Callable

import keras
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.images.preprocessing import Preprocessing


@dataclasses.dataclass(frozen=True)
class EvaluatedEncoder:
    """An encoder under evaluation; `byol_tf.encoders` makes them of runs and SavedModels.

    Attributes:
        name: of its row in the results.
        encoder: frozen, `(images, training=False)`: preprocessed images float32 `[B, S, S, 3]` →
            `[B, D]`.
        preprocessing: of those images.
        fingerprint: hex digits that stand for architecture and weights.
        build: gives a new Keras model with the same weights, in float32; None where there is none
            to train: of pixels, or of a SavedModel that does not say its config.
    """

    name: str
    encoder: Callable[..., tf.Tensor]
    preprocessing: Preprocessing
    fingerprint: str
    build: Callable[[], keras.Model] | None = None

    def trainable(self) -> keras.Model:
        """A Keras model of its own, to be fine-tuned: float32 `[B, S, S, 3]` → `[B, D]`.

        Raises:
            UserError: there is none.
        """
        if self.build is None:
            raise UserError(
                f"'{self.name}' cannot be trained further: it is not a Keras model; evaluate a "
                "run of byol-pretrain, or a SavedModel that byol-export made of one."
            )
        return self.build()


def fingerprint(encoder: keras.Model) -> str:
    """32 hex digits of the SHA-256 of a Keras model's layers and weights."""
    digest = hashlib.sha256(json.dumps(encoder.get_config(), sort_keys=True, default=str).encode())
    for weight in encoder.get_weights():
        digest.update(weight.tobytes())
    return digest.hexdigest()[:32]

"""Exports an encoder with a linear classifier as one SavedModel.

Evaluation by slice and servers of class probabilities load it.

| signature | input | output |
|---|---|---|
| `serving_default` | `image_bytes`: string `[B]` | `probabilities`: float32 `[B, C]` |
| `pixels` | `images`: uint8 or uint16 `[B, H, W, C]` | `probabilities`: float32 `[B, C]` |
| `examples` | `examples`: string `[B]` | `probabilities`: float32 `[B, C]` |

The inputs are those of the exported encoder, whose graph the SavedModel contains.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.export.encoder import load_saved_model
from byol_tf.export.publish import check_new, publish
from byol_tf.export.warmup import warmup_inputs


def save_classifier(
    encoder_path: str | os.PathLike,
    kernel: np.ndarray,
    bias: np.ndarray,
    class_names: Sequence[str],
    path: str | os.PathLike,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Writes an exported encoder and a linear classifier on it as one SavedModel.

    It appears under its name only after it is complete, reloaded and compared with NumPy's
    softmax(embedding · kernel + bias).

    Args:
        encoder_path: SavedModel of `export.save_encoder`.
        kernel: Weights, float `[D, C]`, as `linear.fit_linear` trains them.
        bias: Biases, float `[C]`.
        class_names: C names, in the order of the labels.
        path: Path of the new SavedModel, `<model>/<version>`.
        metadata: Additional entries of the model card (JSON), which has those of the encoder's card
            and `class_names`.

    Raises:
        UserError: There is no such encoder; the path exists or cannot be written; shapes do not fit
            the encoder or each other; weights are not finite.
    """
    check_new(path)
    encoder, preprocessing, card = load_saved_model(os.fspath(encoder_path))
    kernel, bias = np.asarray(kernel, np.float32), np.asarray(bias, np.float32)
    _check(kernel, bias, class_names, card["embedding_size"])
    inputs = warmup_inputs(preprocessing)
    image_bytes = tf.constant(inputs["serving_default"]["image_bytes"])
    embedding = encoder.signatures["serving_default"](image_bytes=image_bytes)["embedding"]
    module, signatures = _servable(encoder, kernel, bias)
    publish(
        module,
        signatures,
        path,
        card=card | {"class_names": list(class_names)} | (metadata or {}),
        inputs=inputs,
        expected=_softmax(embedding.numpy() @ kernel + bias),
    )


def _servable(
    encoder: Any, kernel: np.ndarray, bias: np.ndarray
) -> tuple[tf.Module, dict[str, Callable]]:
    """Returns the module to save and its signatures."""
    module = tf.Module()
    module.encoder = encoder  # Holds the weights that its signatures use.
    module.kernel = tf.Variable(kernel, trainable=False)
    module.bias = tf.Variable(bias, trainable=False)

    def classifier(embed):
        ((name, spec),) = embed.structured_input_signature[1].items()

        def classify(inputs):
            logits = embed(**{name: inputs})["embedding"] @ module.kernel + module.bias
            return {"probabilities": tf.nn.softmax(logits)}

        named = tf.TensorSpec(spec.shape, spec.dtype, name)
        return tf.function(classify, autograph=False, input_signature=[named])

    return module, {name: classifier(embed) for name, embed in encoder.signatures.items()}


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _check(
    kernel: np.ndarray, bias: np.ndarray, class_names: Sequence[str], embedding_size: int
) -> None:
    if kernel.ndim != 2 or len(kernel) != embedding_size:
        raise UserError(
            f"the classifier's kernel has the shape {kernel.shape}, but the encoder's embedding "
            f"has {embedding_size} values; give a kernel [{embedding_size}, C] trained on "
            "this encoder."
        )
    if bias.shape != kernel.shape[1:] or len(class_names) != kernel.shape[1]:
        raise UserError(
            f"the classifier's kernel has {kernel.shape[1]} classes, its bias the shape "
            f"{bias.shape}, and there are {len(class_names)} class names; give equal numbers."
        )
    if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
        raise UserError(
            "the classifier has weights that are not finite; train it with a lower learning rate."
        )

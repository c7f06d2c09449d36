"""How an exported model is written: complete and compared under its name, or not at all.

Beside the graph, `assets.extra/` holds warm-up requests and `model_card.json`.
"""

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.export.warmup import write_warmup

CARD_PATH = "assets.extra/model_card.json"
_TOLERANCE = 1e-4


def check_new(path: str | os.PathLike) -> None:
    """Raises `UserError` if there is something at `path`."""
    if tf.io.gfile.exists(path):
        raise UserError(f"'{path}' exists already; give a new version number, or remove it first.")


def publish(
    module: tf.Module,
    signatures: dict[str, Callable],
    path: str | os.PathLike,
    *,
    card: dict[str, Any],
    inputs: dict[str, dict[str, np.ndarray]],
    expected: np.ndarray,
    model_name: str | None = None,
) -> None:
    """Writes a SavedModel that appears under its name only when it is reloaded and compared.

    Args:
        module: what to save; all variables and tables that the signatures use hang on it.
        signatures: name → tf.function with one output.
        path: of the new SavedModel, `<model>/<version>`.
        card: the model card, JSON, with the `architecture`.
        inputs: of `warmup.warmup_inputs`.
        expected: what each signature has to give for its input, `[1, N]`.
        model_name: that the warm-up requests are addressed to, by default `<model>` of the path.

    Raises:
        UserError: the path cannot be written.
        RuntimeError: a signature of the written model gives something else.
    """
    path = os.fspath(path).rstrip("/")
    model_name = model_name or os.path.basename(os.path.dirname(path)) or card["architecture"]
    # Not a number, so no server takes it for a version.
    temporary = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with _writing(path):
            tf.saved_model.save(module, temporary, signatures=signatures)
            write_warmup(temporary, model_name, inputs)
            with tf.io.gfile.GFile(os.path.join(temporary, CARD_PATH), "w") as file:
                file.write(json.dumps(card, indent=2, sort_keys=True) + "\n")
        _compare(temporary, inputs, expected)
        with _writing(path):
            tf.io.gfile.rename(temporary, path)
    finally:
        if tf.io.gfile.exists(temporary):
            tf.io.gfile.rmtree(temporary)


def _compare(folder: str, inputs: dict, expected: np.ndarray) -> None:
    model = tf.saved_model.load(folder)
    for signature_name, values in inputs.items():
        values = {name: tf.constant(value) for name, value in values.items()}
        (output,) = model.signatures[signature_name](**values).values()
        difference = np.abs(output.numpy() - expected).max()
        if difference > _TOLERANCE * max(1.0, np.abs(expected).max()):
            raise RuntimeError(
                f"the exported signature {signature_name} differs from the model in memory by up "
                f"to {difference}; nothing was written."
            )


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    """Turns a failure to write into a sentence."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"'{path}' cannot be written ({error}); choose another path.") from error

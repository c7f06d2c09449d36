"""Atomic writes of exported models, which are reloaded and compared before they get their name.

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
    """Raises `UserError` if `path` exists."""
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
    """Writes a SavedModel that appears under its name only after it is reloaded and compared.

    Args:
        module: Module to save, which holds all variables and tables that the signatures use.
        signatures: tf.functions with one output each, by name.
        path: Path of the new SavedModel, `<model>/<version>`.
        card: Model card (JSON), with the `architecture`.
        inputs: Inputs of `warmup.warmup_inputs`.
        expected: Output that each signature must give for its input, `[1, N]`.
        model_name: Name of the model in the warm-up requests, by default `<model>` of the path.

    Raises:
        UserError: The path cannot be written.
        RuntimeError: A signature of the written model gives another output.
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


def _compare(folder: str, inputs: dict[str, dict[str, np.ndarray]], expected: np.ndarray) -> None:
    """Raises `RuntimeError` if a signature of the written model does not give `expected`."""
    model = tf.saved_model.load(folder)
    for signature_name, values in inputs.items():
        tensors = {name: tf.constant(value) for name, value in values.items()}
        (output,) = model.signatures[signature_name](**tensors).values()
        difference = np.abs(output.numpy() - expected).max()
        if difference > _TOLERANCE * max(1.0, np.abs(expected).max()):
            raise RuntimeError(
                f"the exported signature {signature_name} differs from the model in memory by up "
                f"to {difference}; no model was written."
            )


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    """Turns a failure to write into a `UserError`."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"'{path}' cannot be written ({error}); choose another path.") from error

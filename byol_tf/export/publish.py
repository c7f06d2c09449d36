"""Atomic writes of exported models, which are compared before they get their name.

A SavedModel has warm-up requests and `model_card.json` in `assets.extra/`; a format of one file has
its card beside it, as FILE.card.json.
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
from byol_tf.files import write_atomically

CARD_PATH = "assets.extra/model_card.json"
TOLERANCE = 1e-4


def check_new(path: str | os.PathLike) -> None:
    """Raises `UserError` if `path` exists."""
    if tf.io.gfile.exists(path):
        raise UserError(f"'{path}' exists already; give a new version or name, or remove it first.")


def card_beside(path: str | os.PathLike) -> str:
    """Returns the path of the model card of a single file."""
    return f"{os.fspath(path)}.card.json"


def relative_difference(outputs: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference of `[N, D]`, relative to the largest value if that exceeds 1.

    It is infinite if a value is not finite; an export is right up to `TOLERANCE`.
    """
    difference = np.abs(outputs - expected).max() / max(1.0, np.abs(expected).max())
    return float(difference) if np.isfinite(difference) else float("inf")


def publish_file(content: bytes, path: str | os.PathLike, card: dict[str, Any]) -> None:
    """Writes a converted model that its caller has compared, and its card beside it.

    Raises:
        UserError: The path cannot be written; neither file is there then.
    """
    path = os.fspath(path)
    with _writing(path):
        tf.io.gfile.makedirs(os.path.dirname(path) or ".")
        write_atomically(card_beside(path), _json(card))
        try:
            write_atomically(path, content)
        except (OSError, tf.errors.OpError):
            tf.io.gfile.remove(card_beside(path))
            raise


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
                file.write(_json(card))
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
        difference = relative_difference(output.numpy(), expected)
        if difference > TOLERANCE:
            raise RuntimeError(
                f"the exported signature {signature_name} differs from the model in memory by up "
                f"to {difference}; no model was written."
            )


def _json(card: dict[str, Any]) -> str:
    return json.dumps(card, indent=2, sort_keys=True) + "\n"


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    """Turns a failure to write into a `UserError`."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"'{path}' cannot be written ({error}); choose another path.") from error

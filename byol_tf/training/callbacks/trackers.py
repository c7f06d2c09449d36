"""Experiment trackers of one's choice, MLflow or Weights & Biases, by their own Keras callbacks."""

import contextlib
import importlib.util
import json
import os
from collections.abc import Iterator
from typing import Any

import keras
import ml_collections
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.files import write_atomically

_IDS_PATH = "trackers.json"  # The tracker's name of the run, which a resumed run continues.


def check(name: str) -> None:
    """Refuses a tracker that is unknown or not installed.

    Raises:
        UserError: It is.
    """
    if not name:
        return
    if name not in _TRACKERS:
        raise UserError(f"logger is '{name}'; give {', '.join(_TRACKERS)} or '' for none.")
    if importlib.util.find_spec(name) is None:
        raise UserError(
            f"logger is '{name}', which is not installed; run pip install 'byol_tf[{name}]'."
        )


@contextlib.contextmanager
def tracked(
    name: str, run_dir: str, config: ml_collections.ConfigDict
) -> Iterator[list[keras.callbacks.Callback]]:
    """Yields the callbacks that log to the tracker `name`, whose run lasts as long as the body.

    The tracker is configured as its users do, by its own environment variables
    (MLFLOW_TRACKING_URI, WANDB_PROJECT, WANDB_MODE). The run has the config as its parameters. A
    resumed training continues it.

    Args:
        name: `mlflow`, `wandb`, or empty for none.
        run_dir: Folder of the run, which remembers what the tracker calls it.
        config: Resolved config.

    Raises:
        UserError: The tracker refuses to start a run.
    """
    if not name:
        yield []
        return
    path = os.path.join(run_dir, _IDS_PATH)
    ids = {}
    if tf.io.gfile.exists(path):
        with tf.io.gfile.GFile(path) as file:
            ids = json.load(file)
    with _TRACKERS[name](ids.get(name), run_dir, _flat(config.to_dict())) as (run_id, callback):
        write_atomically(path, json.dumps(ids | {name: run_id}) + "\n")
        yield [callback]


@contextlib.contextmanager
def _mlflow(run_id: str | None, run_dir: str, parameters: dict[str, Any]) -> Iterator[tuple]:
    import mlflow
    import mlflow.keras
    import mlflow.tensorflow

    # MLflow has one callback for Keras 3 and one, elsewhere, for Keras 2.
    module = mlflow.keras if hasattr(mlflow.keras, "MlflowCallback") else mlflow.tensorflow
    try:
        run = mlflow.start_run(run_id, run_name=None if run_id else _name(run_dir))
    except mlflow.MlflowException as error:
        raise UserError(
            f"MLflow starts no run ({error}); check MLFLOW_TRACKING_URI, or leave logger empty."
        ) from error
    with run:
        mlflow.log_params(parameters)
        yield run.info.run_id, module.MlflowCallback()


@contextlib.contextmanager
def _wandb(run_id: str | None, run_dir: str, parameters: dict[str, Any]) -> Iterator[tuple]:
    import wandb
    from wandb.integration.keras import WandbMetricsLogger

    local = run_dir if os.path.isdir(run_dir) else None  # Not a bucket.
    try:
        run = wandb.init(
            id=run_id, resume="allow", name=_name(run_dir), dir=local, config=parameters
        )
    except wandb.Error as error:
        raise UserError(
            f"Weights & Biases starts no run ({error}); run wandb login, set WANDB_MODE=offline, "
            "or leave logger empty."
        ) from error
    with run:
        yield run.id, WandbMetricsLogger()


def _name(run_dir: str) -> str:
    return os.path.basename(os.path.normpath(run_dir))


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested fields by dotted name."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


_TRACKERS = {"mlflow": _mlflow, "wandb": _wandb}

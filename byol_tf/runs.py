"""The folder of a run: its config, checkpoints and history."""

import csv
import hashlib
import io
import json
import os

import keras
import ml_collections
import tensorflow as tf
from absl import logging

from byol_tf.build import build_encoder
from byol_tf.errors import UserError
from byol_tf.files import write_atomically
from byol_tf.models.precision import policy_scope


def latest_checkpoint(run_dir: str) -> str | None:
    """Returns the path of a run's latest checkpoint, without .index; None before the first."""
    return tf.train.latest_checkpoint(os.path.join(run_dir, "checkpoints"))


def claim_run_dir(run_dir: str, config: dict) -> None:
    """Writes `config` to `run_dir`/config.json, or checks that the run there has the same config.

    Raises:
        UserError: The run has another config (the message names the fields that differ), or the
            folder cannot be written.
    """
    path = os.path.join(run_dir, "config.json")
    if tf.io.gfile.exists(path):
        with tf.io.gfile.GFile(path) as file:
            differing = _differences(json.load(file), json.loads(json.dumps(config)))
        if differing:
            raise UserError(
                f"'{run_dir}' holds a run with another config ({'; '.join(differing)}); give "
                "another run folder, or the config it was started with to continue it."
            )
        return
    try:
        tf.io.gfile.makedirs(run_dir)
        write_atomically(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"the run folder '{run_dir}' cannot be written ({error}); choose another."
        ) from error


def load_config(run_dir: str) -> ml_collections.ConfigDict:
    """Returns the resolved config of a run, with `examples` and `classes` of its data.

    Raises:
        UserError: `run_dir` holds no run.
    """
    path = os.path.join(run_dir, "config.json")
    if not tf.io.gfile.exists(path):
        raise UserError(
            f"'{run_dir}' holds no run (no config.json); give the --run_dir of byol-pretrain."
        )
    with tf.io.gfile.GFile(path) as file:
        return ml_collections.ConfigDict(json.load(file))


def restore_encoder(run_dir: str, path: str | None = None) -> keras.Model:
    """Returns the online encoder of a run, computing in float32.

    Args:
        run_dir: Folder of a run of `pretrain`.
        path: Path of a checkpoint, without .index; None takes the run's latest.

    Raises:
        UserError: There is no run or no checkpoint, or it has another architecture.
    """
    config = load_config(run_dir)
    path = path or latest_checkpoint(run_dir)
    if path is None:
        raise UserError(
            f"'{run_dir}' has no checkpoint yet; run byol-pretrain until it saves the first."
        )
    with policy_scope("float32"):
        encoder = build_encoder(config)
    restore(tf.train.Checkpoint(model=tf.train.Checkpoint(encoder=encoder)), path)
    return encoder


def restore(checkpoint: tf.train.Checkpoint, path: str) -> None:
    """Restores all objects of `checkpoint` from the file `path`.

    Args:
        checkpoint: Objects to restore, all of which must be in the file.
        path: Path of the checkpoint, without .index.

    Raises:
        UserError: There is no such checkpoint, or it has another architecture.
    """
    try:
        status = checkpoint.restore(path)
        status.assert_existing_objects_matched()
        status.expect_partial()  # No warning if only the encoder is restored.
    except tf.errors.NotFoundError as error:
        raise UserError(
            f"there is no checkpoint '{path}'; give the path without .index."
        ) from error
    except (AssertionError, ValueError, tf.errors.OpError) as error:
        logging.debug("restore: %s", error)
        raise UserError(
            f"the checkpoint '{path}' is of another architecture or optimizer; restore it with the "
            "config it was trained with (config.json in its run folder)."
        ) from error


def read_history(run_dir: str) -> list[dict[str, str]]:
    """Returns the rows of a run's history.csv, oldest first; an empty list without that file."""
    path = os.path.join(run_dir, "history.csv")
    if not tf.io.gfile.exists(path):
        return []
    with tf.io.gfile.GFile(path) as file:
        return list(csv.DictReader(io.StringIO(file.read())))


def fingerprint(config: dict) -> str:
    """Returns twelve hex digits that identify a config, from the SHA-256 of its sorted JSON."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


def _differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    differing = []
    for key in sorted(old.keys() | new.keys()):
        was, now = old.get(key), new.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            differing += _differences(was, now, f"{prefix}{key}.")
        elif was != now:
            differing.append(f"{prefix}{key}: {was} there, {now} given")
    return differing

"""The folder of a run: its lock, config, checkpoints and history."""

import contextlib
import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator

import keras
import ml_collections
import tensorflow as tf

from byol_tf import checkpoints, locks
from byol_tf.build import build_float32_encoder
from byol_tf.checkpoints import restore, trackable
from byol_tf.configs import defaults
from byol_tf.errors import UserError
from byol_tf.files import write_atomically


def latest_checkpoint(run_dir: str) -> str | None:
    """Returns the path of a run's latest whole checkpoint, without .index; None before the first.

    Raises:
        UserError: All checkpoints are damaged.
    """
    return checkpoints.find_latest(os.path.join(run_dir, "checkpoints"))


@contextlib.contextmanager
def locked(run_dir: str) -> Iterator[None]:
    """Creates the run folder and lets no other process train in it while the body runs.

    The lock is that of `locks.exclusive`. Remote folders, such as gs://, have none.

    Raises:
        UserError: Another process trains in the folder, or it cannot be written.
    """
    with contextlib.ExitStack() as held:
        try:
            tf.io.gfile.makedirs(run_dir)
            if os.path.isdir(run_dir):
                refusal = (
                    f"another byol-pretrain is training in '{run_dir}'; wait for it, or give "
                    "another run folder."
                )
                held.enter_context(locks.exclusive(run_dir, refusal))
        except (OSError, tf.errors.OpError) as error:
            raise _unwritable(run_dir, error) from error
        yield


def claim_run_dir(run_dir: str, config: dict) -> None:
    """Writes `config` to `run_dir`/config.json, or checks that the run there has the same config.

    A run without a checkpoint has nothing to lose: its config is replaced. A field that a run from
    before it existed does not say has its default.

    Raises:
        UserError: The run has another config (the message names the fields that differ), its
            config.json is damaged, or the folder cannot be written.
    """
    path = os.path.join(run_dir, "config.json")
    if tf.io.gfile.exists(path) and checkpoints.saved(os.path.join(run_dir, "checkpoints")):
        differing = _differences(_completed(_read_config(path)), _completed(config))
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
        raise _unwritable(run_dir, error) from error


def load_config(run_dir: str) -> ml_collections.ConfigDict:
    """Returns the resolved config of a run, with `examples` and `classes` of its data.

    Raises:
        UserError: `run_dir` holds no run, or its config.json is damaged.
    """
    path = os.path.join(run_dir, "config.json")
    if not tf.io.gfile.exists(path):
        raise UserError(
            f"'{run_dir}' holds no run (no config.json); give the --run_dir of byol-pretrain."
        )
    return ml_collections.ConfigDict(_read_config(path))


def restore_encoder(run_dir: str, path: str | None = None) -> keras.Model:
    """Returns the online encoder of a run, computing in float32.

    Args:
        run_dir: Folder of a run of `pretrain`.
        path: Path of a checkpoint, without .index; None takes the run's latest whole one.

    Raises:
        UserError: There is no run or no whole checkpoint, or it has another architecture.
    """
    config = load_config(run_dir)
    path = path or latest_checkpoint(run_dir)
    if path is None:
        raise UserError(
            f"'{run_dir}' has no checkpoint yet; run byol-pretrain until it saves the first."
        )
    encoder = build_float32_encoder(config)
    restore(tf.train.Checkpoint(model=tf.train.Checkpoint(encoder=trackable(encoder))), path)
    return encoder


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


def _read_config(path: str) -> dict:
    try:
        with tf.io.gfile.GFile(path) as file:
            config = json.load(file)
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise UserError(
            f"'{path}' is damaged: it is not the JSON that byol-pretrain wrote; put it back from a "
            "copy, or remove it and give the command the run was started with: the checkpoints are "
            "kept."
        )
    return config


def _unwritable(run_dir: str, error: Exception) -> UserError:
    return UserError(f"the run folder '{run_dir}' cannot be written ({error}); choose another.")


def _completed(config: dict) -> dict:
    """Returns the config as JSON gives it back, with the default of every field it lacks.

    Where there are no small crops, it has no numbers of them: recipes have others than the default.
    """
    fields = defaults.get_config().to_dict()
    if config.get("encoder", {}).get("name", "resnet") != "resnet":
        del fields["encoder"]  # They are resnet's arguments.

    def fill(given, default):
        below = {
            key: fill(value, default[key])
            for key, value in given.items()
            if isinstance(value, dict) and isinstance(default.get(key), dict)
        }
        return default | given | below

    completed = fill(config, fields)
    if not completed["augment"]["small_crops"]:
        completed["augment"] = {
            key: value
            for key, value in completed["augment"].items()
            if key not in ("small_crop_size", "view_small")
        }
    return json.loads(json.dumps(completed))


def _differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    differing = []
    for key in sorted(old.keys() | new.keys()):
        was, now = old.get(key), new.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            differing += _differences(was, now, f"{prefix}{key}.")
        elif was != now:
            differing.append(f"{prefix}{key}: {was} there, {now} given")
    return differing

"""Encoders to evaluate: of a run, of a SavedModel, and the baselines to compare them with."""

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import keras
import ml_collections
import tensorflow as tf

from byol_tf import export, runs, weights
from byol_tf.build import build_float32_encoder, find_method, preprocessing_from_config
from byol_tf.errors import UserError
from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder, fingerprint
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.models.two_view_model import TwoViewModel
from byol_tf.weights.exported import keras_encoder


def from_run(run_dir: str, checkpoint: str | None = None) -> EvaluatedEncoder:
    """Returns the online encoder of a run of `pretrain`.

    Args:
        run_dir: Folder of the run.
        checkpoint: Path of the checkpoint without .index; None takes the latest.

    Raises:
        UserError: There is no run or no checkpoint, or the checkpoint has another architecture.
    """
    config = runs.load_config(run_dir)

    def build() -> keras.Model:
        return runs.restore_encoder(run_dir, checkpoint)

    return of_keras(method_name(config), build, preprocessing_from_config(config))


def from_saved_model(path: str) -> tuple[EvaluatedEncoder, ml_collections.ConfigDict | None]:
    """Returns an exported encoder, and the config it was trained with if its card contains it.

    Raises:
        UserError: The path is not a SavedModel of `export.save_encoder`.
    """
    model, preprocessing, card = export.load_saved_model(path)
    config = ml_collections.ConfigDict(card["config"]) if card.get("config") else None

    def build() -> keras.Model:
        return keras_encoder(model, config, path)

    encoder = EvaluatedEncoder(
        method_name(config) if config else "encoder",
        lambda images, training=False: model.encode(images),
        preprocessing,
        _fingerprint_of_files(path),
        build if config else None,
    )
    return encoder, config


def of_keras(
    name: str, build: Callable[[], keras.Model], preprocessing: Preprocessing
) -> EvaluatedEncoder:
    """Returns an evaluated encoder of the Keras model that `build` makes; calls it once here."""
    encoder = build()
    return EvaluatedEncoder(name, encoder, preprocessing, fingerprint(encoder), build)


def before_training(
    config: ml_collections.ConfigDict, preprocessing: Preprocessing
) -> EvaluatedEncoder | None:
    """Returns the encoder of the weights that a training of `config` starts from; None without.

    Raises:
        UserError: The weights cannot be read, or are of another architecture.
    """
    start = weights.read_start(config)
    if start is None:
        return None

    def build() -> keras.Model:
        encoder = build_float32_encoder(config)
        start.assign_to(encoder)
        return encoder

    return of_keras("before this training", build, preprocessing)


def random_encoder(
    config: ml_collections.ConfigDict, preprocessing: Preprocessing
) -> EvaluatedEncoder:
    """Returns the encoder of `config` before training; `config.seed` decides the weights."""

    def build() -> keras.Model:
        keras.utils.set_random_seed(config.seed)
        return build_float32_encoder(config)

    return of_keras("random encoder", build, preprocessing)


def raw_pixels(preprocessing: Preprocessing) -> EvaluatedEncoder:
    """Returns an encoder whose representation is the preprocessed pixels."""
    pixels = keras.Sequential([keras.Input(preprocessing.shape), keras.layers.Flatten()])
    name = f"pixels-{preprocessing.image_size}"
    return EvaluatedEncoder("raw pixels", pixels, preprocessing, name)


def run_method(config: Mapping[str, Any]) -> type[TwoViewModel] | None:
    """Returns the class of the method a run was trained with, or None if it cannot be imported."""
    try:
        return find_method(_configured_method(config))
    except UserError:
        return None


def method_name(config: Mapping[str, Any]) -> str:
    """Returns the display name of a run's method, or its name in the config if it has none."""
    method = run_method(config)
    return (method and method.display_name) or _configured_method(config)


def _configured_method(config: Mapping[str, Any]) -> str:
    return config.get("method", "byol")  # Runs from before there were others do not say it.


def _fingerprint_of_files(folder: str) -> str:
    digest = hashlib.sha256()
    for name in ("saved_model.pb", "variables/variables.data-00000-of-00001"):
        with tf.io.gfile.GFile(os.path.join(folder, name), "rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()[:32]

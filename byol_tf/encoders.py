"""The encoders that are evaluated: of a run, of a SavedModel, and what they have to beat."""

import hashlib
import os

import keras
import ml_collections
import tensorflow as tf

from byol_tf import export, runs
from byol_tf.build import build_encoder, preprocessing_from_config
from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder, fingerprint
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.models.precision import policy_scope

_NAMES = {"byol": "BYOL", "simclr": "SimCLR"}


def from_run(run_dir: str, checkpoint: str | None = None) -> EvaluatedEncoder:
    """The online encoder of a run of `pretrain`.

    Args:
        run_dir: the run.
        checkpoint: its path without .index; None takes the latest.

    Raises:
        UserError: no run, no checkpoint, or one of another architecture.
    """
    config = runs.load_config(run_dir)

    def build() -> keras.Model:
        return runs.restore_encoder(run_dir, checkpoint)

    return of_keras(_name(config), build, preprocessing_from_config(config))


def from_saved_model(path: str) -> tuple[EvaluatedEncoder, ml_collections.ConfigDict | None]:
    """An exported encoder, and the config it was trained with where its card says it.

    Raises:
        UserError: no SavedModel of `export.save_encoder`.
    """
    model, preprocessing, card = export.load_saved_model(path)
    config = ml_collections.ConfigDict(card["config"]) if card.get("config") else None

    def build() -> keras.Model:
        with policy_scope("float32"):
            encoder = build_encoder(config)
        encoder.set_weights([weight.numpy() for weight in model.weights])
        return encoder

    encoder = EvaluatedEncoder(
        _name(config) if config else "encoder",
        lambda images, training=False: model.encode(images),
        preprocessing,
        _fingerprint_of_files(path),
        build if config else None,
    )
    return encoder, config


def of_keras(name: str, build, preprocessing: Preprocessing) -> EvaluatedEncoder:
    """What `build` makes, a Keras model, called once for the frozen encoder."""
    encoder = build()
    return EvaluatedEncoder(name, encoder, preprocessing, fingerprint(encoder), build)


def random_encoder(
    config: ml_collections.ConfigDict, preprocessing: Preprocessing
) -> EvaluatedEncoder:
    """The encoder of `config` as it was before training; its seed decides the weights."""

    def build() -> keras.Model:
        keras.utils.set_random_seed(config.seed)
        with policy_scope("float32"):
            return build_encoder(config)

    return of_keras("random encoder", build, preprocessing)


def raw_pixels(preprocessing: Preprocessing) -> EvaluatedEncoder:
    """The preprocessed pixels themselves, as an encoder."""
    size = preprocessing.image_size
    pixels = keras.Sequential([keras.Input((size, size, 3)), keras.layers.Flatten()])
    return EvaluatedEncoder("raw pixels", pixels, preprocessing, f"pixels-{size}")


def _name(config: ml_collections.ConfigDict) -> str:
    """BYOL, also of runs from before there was another method."""
    method = config.get("method", "byol")
    return _NAMES.get(method, method)


def _fingerprint_of_files(folder: str) -> str:
    digest = hashlib.sha256()
    for name in ("saved_model.pb", "variables/variables.data-00000-of-00001"):
        with tf.io.gfile.GFile(os.path.join(folder, name), "rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()[:32]

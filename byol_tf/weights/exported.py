"""Encoders of ours as weights: of a run of byol-pretrain, or of an exported SavedModel."""

from typing import Any

import keras
import ml_collections

from byol_tf import export, runs
from byol_tf.build import build_float32_encoder, preprocessing_from_config
from byol_tf.errors import UserError
from byol_tf.weights.encoder_weights import EncoderWeights
from byol_tf.weights.keras_model import of_model


def read_run(run_dir: str) -> EncoderWeights:
    """Returns the online encoder of a run's latest checkpoint.

    Raises:
        UserError: There is no run or no whole checkpoint.
    """
    config = runs.load_config(run_dir)
    encoder = runs.restore_encoder(run_dir)
    return of_model(
        encoder,
        run_dir,
        "a run of byol-pretrain",
        preprocessing_from_config(config),
        config.get("method", "byol"),
    )


def read_saved_model(path: str) -> EncoderWeights:
    """Returns the encoder of a SavedModel of `export.save_encoder`.

    Raises:
        UserError: It is not one, or its card does not say which network it is.
    """
    model, preprocessing, card = export.load_saved_model(path)
    if not card.get("config"):
        raise UserError(
            f"the model card of '{path}' does not say which network it is; give the run, or a "
            "SavedModel that byol-export made from one."
        )
    config = ml_collections.ConfigDict(card["config"])
    encoder = keras_encoder(model, config, path)
    method = config.get("method", "byol")
    return of_model(encoder, path, "a SavedModel of byol-export", preprocessing, method)


def keras_encoder(model: Any, config: ml_collections.ConfigDict, path: str) -> keras.Model:
    """Returns a new Keras model with the weights of a loaded SavedModel, in float32.

    Args:
        model: What `export.load_saved_model` returned.
        config: The config on its card.
        path: Path of the SavedModel, for the error.

    Raises:
        UserError: The weights are not those of the config's encoder.
    """
    encoder = build_float32_encoder(config)
    weights = export.saved_weights(encoder)
    shapes, saved_shapes = (
        [tuple(weight.shape) for weight in some] for some in (weights, model.weights)
    )
    if shapes != saved_shapes:
        raise UserError(
            f"the weights of '{path}' are not in the order and shapes of the encoder "
            f"'{encoder.name}' on its card, because another version of byol_tf or of the encoder's "
            "code exported it; export its run again."
        )
    for weight, saved in zip(weights, model.weights, strict=True):
        weight.assign(saved)
    return encoder

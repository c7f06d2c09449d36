"""Reads the weights of an encoder from any file or folder that is known."""

import os

import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.weights import (
    deepmind,
    exported,
    keras_file,
    pytorch,
    safetensors_file,
    torch_file,
)
from byol_tf.weights.encoder_weights import EncoderWeights

KINDS = (
    "a run of byol-pretrain, a SavedModel of byol-export, a .keras or .weights.h5 file, DeepMind's "
    ".pkl, or PyTorch's .safetensors, .pth, .pt or .ckpt"
)


def read(path: str) -> EncoderWeights:
    """Returns the weights of an encoder in a file or folder; nothing in it is run.

    Args:
        path: Path of `KINDS`.

    Raises:
        UserError: There is no such file, it is none of these, or it holds no encoder that is known.
    """
    if tf.io.gfile.isdir(path):
        if tf.io.gfile.exists(os.path.join(path, "saved_model.pb")):
            return exported.read_saved_model(path)
        if tf.io.gfile.exists(os.path.join(path, "config.json")):
            return exported.read_run(path)
        raise UserError(
            f"the folder '{path}' is neither a run (config.json) nor a SavedModel "
            "(saved_model.pb); give one, or a file of weights."
        )
    if not os.path.isfile(path):
        raise UserError(f"there are no weights '{path}'; give {KINDS}.")
    try:
        return _read_file(path)
    except OSError as error:
        raise UserError(f"'{path}' cannot be read ({error}).") from error


def _read_file(path: str) -> EncoderWeights:
    name = path.lower()
    if name.endswith(".keras"):
        return keras_file.read_model(path)
    if name.endswith(".weights.h5"):
        return keras_file.read_weights(path)
    if name.endswith(".safetensors"):
        return pytorch.convert(safetensors_file.read(path), path)
    if name.endswith((".pth", ".pt", ".ckpt", ".tar", ".bin")):
        return pytorch.convert(torch_file.read(path), path)
    if name.endswith(".pkl"):
        return deepmind.read(path)
    raise UserError(f"'{path}' is not a kind of weights that is known; give {KINDS}.")

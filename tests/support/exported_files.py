"""Runs exported encoders in the runtimes of their formats."""

import pathlib
import warnings
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

Run = Callable[[np.ndarray], np.ndarray]


def saved_model(path: pathlib.Path) -> Run:
    """Returns the function uint8 `[B, H, W, 3]` -> `[B, D]` of the signature `pixels`."""
    model = tf.saved_model.load(str(path))
    return lambda images: model.signatures["pixels"](images=tf.constant(images))[
        "embedding"
    ].numpy()


def onnx(path: pathlib.Path) -> Run:
    """Returns the function uint8 `[B, H, W, 3]` -> `[B, D]`, run by ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    return lambda images: session.run(None, {"images": images})[0]


def tflite_runner(path: pathlib.Path):
    """Returns the runner of TensorFlow's interpreter for a file's one signature."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf.lite says that it moves to LiteRT.
        return tf.lite.Interpreter(str(path)).get_signature_runner()


def tflite(path: pathlib.Path) -> Run:
    """Returns the function of images that are cropped and resized, uint8 `[N, S, S, 3]`."""
    runner = tflite_runner(path)
    return lambda images: np.concatenate(
        [runner(images=image[None])["embedding"] for image in images]
    )


def keras_file(path: pathlib.Path) -> Run:
    """Returns the function of preprocessed images, float32 `[N, S, S, 3]`."""
    model = keras.models.load_model(path)
    return lambda images: model(images, training=False).numpy()


RUN = {
    "saved_model": saved_model, "onnx": onnx, "tflite": tflite, "int8": tflite,
    "keras": keras_file,
}  # fmt: skip


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the cosine of each row of one with that of the other."""
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(axis=1) / norms

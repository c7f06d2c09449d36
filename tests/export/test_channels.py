"""Exports of an encoder of five bands of 16 bits, run by each format's runtime, against NumPy."""

import json
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from byol_tf import export
from byol_tf.errors import UserError
from byol_tf.images.preprocessing import Preprocessing

SIZE, BANDS = 16, 5
MEAN, STD = np.linspace(0.3, 0.6, BANDS), np.linspace(0.2, 0.3, BANDS)
PREPROCESSING = Preprocessing(SIZE, 1.0, MEAN, STD, bit_depth=16)
IMAGES = np.random.default_rng(0).integers(0, 2**16, (20, SIZE, SIZE, BANDS), np.uint16)


@pytest.fixture(scope="module")
def encoder():
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, BANDS)),
            keras.layers.Conv2D(12, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(8),
        ],
        name="five_bands",
    )


@pytest.fixture(scope="module")
def expected(encoder):
    """Images of the encoder's size are only normalised."""
    normalized = (IMAGES / 65535 - MEAN) / STD
    return encoder(normalized.astype(np.float32), training=False).numpy()


def card_of(path):
    return json.loads((path.parent / f"{path.name}.card.json").read_text())


def test_onnx(encoder, expected, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("tf2onnx", reason="the extra onnx is not installed")
    path = tmp_path / "bands.onnx"
    export.save_onnx(encoder, path, preprocessing=PREPROCESSING, images=IMAGES)
    session = onnxruntime.InferenceSession(str(path))
    (output,) = session.run(None, {"images": IMAGES})
    np.testing.assert_allclose(output, expected, atol=1e-4)
    assert "uint16 [B, H, W, C], decoded 5 channels" in card_of(path)["input"]


def tflite(path, images):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf.lite says that it moves to LiteRT.
        runner = tf.lite.Interpreter(str(path)).get_signature_runner()
    return np.concatenate([runner(images=image[np.newaxis])["embedding"] for image in images])


def test_tflite(encoder, expected, tmp_path):
    path = tmp_path / "bands.tflite"
    export.save_tflite(encoder, path, preprocessing=PREPROCESSING, images=IMAGES)
    np.testing.assert_allclose(tflite(path, IMAGES.astype(np.float32)), expected, atol=1e-4)
    assert "float32 [1, S, S, C], 5 channels, values in [0, 65535]" in card_of(path)["input"]


def test_int8_takes_the_upper_8_bits(encoder, expected, tmp_path):
    path = tmp_path / "bands.tflite"
    export.save_tflite(encoder, path, preprocessing=PREPROCESSING, images=IMAGES, quantize="int8")
    output = tflite(path, (IMAGES >> 8).astype(np.uint8))
    lengths = np.linalg.norm(output, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((output * expected).sum(axis=1) / lengths).min() > 0.98
    assert "uint8 [1, S, S, C], 5 channels, values in [0, 255]" in card_of(path)["input"]


def test_keras(encoder, expected, tmp_path):
    path = tmp_path / "bands.keras"
    export.save_keras(encoder, path, preprocessing=PREPROCESSING, images=IMAGES)
    normalized = ((IMAGES / 65535 - MEAN) / STD).astype(np.float32)
    loaded = keras.models.load_model(path)
    np.testing.assert_allclose(loaded(normalized, training=False), expected, atol=1e-4)
    assert "divided by 65535" in card_of(path)["input"]


def test_a_preprocessing_of_other_channels_is_refused(encoder, tmp_path):
    with pytest.raises(UserError, match="16 pixels wide with 3 channels"):
        export.save_encoder(encoder, tmp_path / "1", preprocessing=Preprocessing(SIZE))

"""Exports an encoder to TFLite (LiteRT), for phones and small devices, in float32 or int8.

| input | output |
|---|---|
| `images`: uint8, or float32 for 16 bits, `[1, S, S, C]` | `embedding`: float32 `[1, D]` |

The caller crops and resizes; the normalisation is inside. Shapes are fixed because the delegates of
phones (GPU, NPU) take nothing else: one image of the size that the encoder was trained with.
"""

import os
import tempfile
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.export.frozen import (
    FrozenEncoder,
    check_equal,
    check_parameters,
    check_path,
    compare,
    conversion_error,
    freeze,
    pictures,
    sizing,
)
from byol_tf.export.publish import publish_file
from byol_tf.images.preprocessing import Preprocessing, to_unit_range

# int8: cosine of each image's embedding with the encoder's.
MIN_COSINE = 0.99
# One in four is held out to compare on.
_HELD_OUT = 4
_MIN_IMAGES = 16


def save_tflite(
    encoder: keras.Model | str | os.PathLike,
    path: str | os.PathLike,
    *,
    preprocessing: Preprocessing | None = None,
    quantize: str | None = None,
    images: np.ndarray | None = None,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Writes the encoder as a TFLite file, and its model card beside it.

    They appear only after TFLite's interpreter has run the file: in float32 its embeddings equal
    the encoder's, in int8 each has a cosine of at least `MIN_COSINE` with the encoder's.

    Args:
        encoder: Keras model `[B, S, S, C]` -> `[B, D]`, or the path of a SavedModel of
            `save_encoder`.
        path: Path of the new file, which ends with .tflite.
        preprocessing: Preprocessing of a Keras model's images; a SavedModel holds its own.
        quantize: `int8` for weights and activations of 8 bits, a quarter of the size; None for
            float32.
        images: Decoded images `[N, H, W, C]` such as the encoder will see. int8 needs them:
            three of four calibrate the activations' ranges, the others are compared. float32 is
            compared on all, or on drawn images without them.
        metadata: Additional entries of the model card.

    Raises:
        UserError: A path or `quantize` is bad; there are too few images; TFLite cannot hold the
            encoder, or changes its embeddings too much.
    """
    check_path(path, ".tflite")
    if quantize not in (None, "int8"):
        raise UserError(f"quantize is '{quantize}'; give int8, or nothing for float32.")
    given = 0 if images is None else len(images)
    if quantize and given < _MIN_IMAGES:
        raise UserError(
            f"int8 needs at least {_MIN_IMAGES} images such as the encoder will see, to calibrate "
            f"on, and has {given}; give more, best a hundred."
        )
    frozen = freeze(encoder, preprocessing, metadata)
    check_parameters(frozen, "TFLite")
    # int8 has 8 bits per pixel too.
    bit_depth = 8 if quantize else frozen.preprocessing.bit_depth
    drawn = [image for batch in pictures(frozen.preprocessing) for image in batch]
    squares = _sized(frozen.preprocessing, drawn if images is None else images, bit_depth)
    held_out = np.arange(len(squares)) % _HELD_OUT == 0
    content, run = _convert(frozen, squares[~held_out] if quantize else None)
    compared = squares[held_out] if quantize else squares
    outputs, expected = compare(
        frozen,
        lambda batch: frozen.preprocessing.normalize(
            to_unit_range(tf.cast(batch, tf.float32), bit_depth)
        ),
        run,
        compared[:, np.newaxis],
    )
    agreement = (
        _check_cosine(outputs, expected) if quantize else check_equal(outputs, expected, "TFLite")
    )
    card = {
        "format": "tflite",
        "precision": quantize or "float32",
        "input": f"images: {squares.dtype.name} [1, S, S, C], {frozen.pixels}, values in "
        f"[0, {2**bit_depth - 1}], {sizing(frozen.preprocessing)}, rounded; the normalisation is "
        "inside",
        "output": "embedding: float32 [1, D]",
        "compared": agreement,
    }
    publish_file(content, path, frozen.card | card)


def _sized(
    preprocessing: Preprocessing, images: Iterable[np.ndarray], bit_depth: int
) -> np.ndarray:
    """Returns what a caller gives to the file for images `[H, W, C]`: `[N, S, S, C]`.

    They are uint8, or float32 of whole levels for 16 bits: delegates have no uint16.
    """
    unnormalized = preprocessing.unnormalized()
    rows = [unnormalized(image).numpy() for image in images]
    levels = np.round((2**bit_depth - 1) * np.stack(rows))
    return levels.astype(np.uint8 if bit_depth == 8 else np.float32)


def _normalize(frozen: FrozenEncoder, largest: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns the function from levels up to `largest`, `[B, S, S, C]`, to the encoder's input."""
    # One product and one sum: TFLite has no division in int8.
    mean, std = (np.array(v) for v in (frozen.preprocessing.mean, frozen.preprocessing.std))
    scale, offset = (1 / (largest * std)).astype(np.float32), (-mean / std).astype(np.float32)
    return lambda pixels: tf.cast(pixels, tf.float32) * scale + offset


def _convert(
    frozen: FrozenEncoder, calibration: np.ndarray | None
) -> tuple[bytes, Callable[[np.ndarray], np.ndarray]]:
    """Returns the file and a function that runs it: `[1, S, S, C]` -> float32 `[1, D]`.

    Args:
        frozen: The encoder.
        calibration: uint8 `[N, S, S, C]` for int8; None for float32.
    """
    largest = 255 if calibration is not None else 2**frozen.preprocessing.bit_depth - 1
    # If it quantizes, the converter itself makes a float32 input uint8, without a cast to float.
    dtype = tf.uint8 if calibration is None and largest == 255 else tf.float32
    images = tf.TensorSpec([1, *frozen.preprocessing.shape], dtype, "images")
    embed = frozen.traced(_normalize(frozen, largest), images)
    module = tf.Module()
    module.weights = frozen.weights
    try:
        with tempfile.TemporaryDirectory() as folder:
            # From a SavedModel, because the file has its signature then, with names.
            tf.saved_model.save(module, folder, signatures=embed)
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
            if calibration is not None:
                _quantize(converter, calibration)
            content = converter.convert()
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # That ai_edge_litert has the interpreter of the future.
            interpreter = tf.lite.Interpreter(model_content=content)
        runner = interpreter.get_signature_runner()
    except Exception as error:  # The converter raises errors of several kinds.
        raise conversion_error(frozen, "TFLite", error) from error
    return content, lambda batch: runner(images=batch)["embedding"]


def _quantize(converter: tf.lite.TFLiteConverter, calibration: np.ndarray) -> None:
    """Makes the converter write int8, from pixels uint8 to an embedding in float32."""
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    # Black and white make the input's scale 1: a pixel's value is the quantized value.
    extremes = np.stack([np.zeros_like(calibration[0]), np.full_like(calibration[0], 255)])
    images = np.concatenate([extremes, calibration]).astype(np.float32)
    converter.representative_dataset = lambda: ([image[np.newaxis]] for image in images)


def _check_cosine(outputs: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    """Returns the card's entries of a comparison of int8 with float32, both `[N, D]`."""
    unit, unit_expected = (
        rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        for rows in (outputs, expected)
    )
    cosines = (unit * unit_expected).sum(axis=1)
    if not cosines.min() >= MIN_COSINE:
        raise UserError(
            f"in int8 an image's embedding has a cosine of {cosines.min():.4f} with that of the "
            f"encoder, less than {MIN_COSINE}, so it was not written; give more images such as the "
            "encoder will see, or export float32."
        )
    between = unit_expected @ unit_expected.T
    others = between[~np.eye(len(between), dtype=bool)]
    return {
        "images": len(outputs),
        "lowest_cosine": float(cosines.min()),
        "mean_cosine": float(cosines.mean()),
        # What to judge them by: embeddings of different images may be nearly parallel, too.
        "mean_cosine_of_different_images": float(others.mean()),
    }

"""Exports an encoder to ONNX, for ONNX Runtime, Triton, TensorRT and browsers.

| input | output |
|---|---|
| `images`: uint8 or uint16 `[B, H, W, C]` | `embedding`: float32 `[B, D]` |

They are those of the SavedModel's signature `pixels`: decoded images of any size, upright; crop,
resize and normalisation are inside. All images of a batch have one size.
"""

import logging
import os
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
)
from byol_tf.export.plain_preprocessing import preprocess
from byol_tf.export.publish import publish_file
from byol_tf.images.preprocessing import Preprocessing


def save_onnx(
    encoder: keras.Model | str | os.PathLike,
    path: str | os.PathLike,
    *,
    preprocessing: Preprocessing | None = None,
    images: np.ndarray | None = None,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Writes the encoder as an ONNX file with its preprocessing, and its model card beside it.

    They appear only after ONNX Runtime has run the file and its embeddings equal the encoder's.

    Args:
        encoder: Keras model `[B, S, S, C]` -> `[B, D]`, or the path of a SavedModel of
            `save_encoder`.
        path: Path of the new file, which ends with .onnx.
        preprocessing: Preprocessing of a Keras model's images; a SavedModel holds its own.
        images: Decoded images `[N, H, W, C]` to compare on, beside drawn ones.
        metadata: Additional entries of the model card.

    Raises:
        UserError: The packages of the extra `onnx` are missing; a path is bad; ONNX cannot hold the
            encoder or changes its embeddings.
    """
    check_path(path, ".onnx")
    try:
        import onnxruntime
        import tf2onnx
    except ImportError as error:
        raise UserError(
            f"ONNX needs the package {error.name}; run pip install 'byol_tf[onnx]'."
        ) from error
    frozen = freeze(encoder, preprocessing, metadata)
    check_parameters(frozen, "ONNX")
    content, session = _convert(frozen)
    batches = pictures(frozen.preprocessing)
    if images is not None:
        batches += [*images[:, np.newaxis]]
    outputs, expected = compare(
        frozen,
        frozen.preprocessing,
        lambda batch: session.run(["embedding"], {"images": batch})[0],
        batches,
    )
    compared = check_equal(outputs, expected, "ONNX")
    versions = {"tf2onnx": tf2onnx.__version__, "onnxruntime": onnxruntime.__version__}
    card = {
        "format": "onnx",
        "input": f"images: {frozen.preprocessing.pixel_type.name} [B, H, W, C], decoded "
        f"{frozen.pixels} of any size, upright; the preprocessing is inside",
        "output": "embedding: float32 [B, D]",
        "compared": compared,
        "versions": frozen.card["versions"] | versions,
    }
    publish_file(content, path, frozen.card | card)


def _convert(frozen: FrozenEncoder) -> tuple[bytes, Any]:
    """Returns the file and a session of ONNX Runtime with it."""
    import onnxruntime
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # What it says is in the error below.
    images = tf.TensorSpec(
        [None, None, None, frozen.channels], frozen.preprocessing.pixel_type, "images"
    )
    embed = frozen.traced(lambda pixels: preprocess(frozen.preprocessing, pixels), images)
    try:
        model, _ = tf2onnx.convert.from_function(
            embed, [images], custom_op_handlers={"Erfc": (_one_minus_erf, [])}
        )
        content = model.SerializeToString()
        return content, onnxruntime.InferenceSession(content)
    except Exception as error:  # Both raise errors of their own for what they do not support.
        raise conversion_error(frozen, "ONNX", error) from error


def _one_minus_erf(graph: Any, node: Any, name: str, arguments: list) -> None:
    """Replaces a node Erfc, as which Keras 3 computes GELU and which tf2onnx does not know."""
    del arguments
    shapes, types = node.output_shapes, node.output_dtypes
    one = graph.make_const(f"{name}/one", np.float32(1))
    erf = graph.make_node("Erf", [node.input[0]])
    graph.remove_node(name)
    inputs = [one.output[0], erf.output[0]]
    graph.make_node("Sub", inputs, outputs=node.output, name=name, shapes=shapes, dtypes=types)

"""Encoder → SavedModel: the contract between training and serving.

| signature | input | output |
|---|---|---|
| `serving_default` | `image_bytes`: string [B] | `embedding`: float32 [B, D] |
| `pixels` | `images`: uint8 [B, H, W, 3] | `embedding`: float32 [B, D] |
| `examples` | `examples`: string [B] | `embedding`: float32 [B, D] |

`image_bytes` are whole files (JPEG, PNG, BMP, GIF), `images` decoded RGB of any size, `examples`
serialized tf.Examples with the feature `image/encoded`, which is what TFX's BulkInferrer and
Evaluator send. The whole preprocessing is in the graph, before it what a pipeline does to files
(`prepare`), and before that a bound on what a file unpacks to (`untrusted.bounded`). For evaluation
the model also has the function `encode`: preprocessed images float32 [B, S, S, 3] → [B, D].
`assets.extra/` holds warm-up requests and `model_card.json`.
"""

import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import byol_tf
from byol_tf.errors import UserError
from byol_tf.export.float32 import in_float32, without_xla
from byol_tf.export.publish import CARD_PATH, check_new, publish
from byol_tf.export.warmup import warmup_inputs
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.images.size_limit import bounded
from byol_tf.models.networks import check_flat

# TFX sends up to 1000 images at once, TF Serving as many as max_batch_size says: pixels and
# activations are held for this many at a time. Larger batches were not faster.
_IMAGES_AT_ONCE = 64


def save_encoder(
    encoder: keras.Model,
    path: str | os.PathLike,
    *,
    image_size: int = 224,
    preprocessing: Preprocessing | None = None,
    prepare: Callable[[tf.Tensor], tf.Tensor] | None = None,
    metadata: dict[str, Any] | None = None,
    model_name: str | None = None,
) -> None:
    """Writes the encoder as a SavedModel with the signatures above.

    It appears under its name only when it is complete, reloaded and compared with the encoder. It
    uses no XLA, which TF Serving has off by default, and computes in float32 whatever it was
    trained in: most serving CPUs emulate bfloat16, and its eight bits would make embeddings differ
    between machines.

    Args:
        encoder: `[B, S, S, 3]` → `[B, D]`.
        path: of the new SavedModel, `<model>/<version>`; TF Serving wants a number as version.
        image_size: S; images get the default `Preprocessing` of that size.
        preprocessing: takes the place of the default one.
        prepare: string `[B]` → string `[B]`, from image files to image files, which all signatures
            go through before they decode: the Transform graph of a pipeline. Where it uses
            variables or tables it is a tf.Module or a Keras layer that holds them.
        metadata: further entries of the model card, such as the config and the metrics; JSON.
        model_name: that the warm-up requests are addressed to, by default `<model>` of the path.

    Raises:
        UserError: the path exists or cannot be written; the encoder has no `[B, D]` output, takes
            no images of that size, gives values that are not finite, or cannot be copied to
            float32; `prepare` gives something else than string `[B]`.
    """
    preprocessing = preprocessing or Preprocessing(image_size)
    check_new(path)
    _check(encoder, preprocessing)
    encoder = in_float32(encoder)
    inputs = warmup_inputs(preprocessing.image_size)
    expected = _expected(encoder, preprocessing, prepare, inputs)
    module, signatures = _servable(encoder, preprocessing, prepare)
    with without_xla(encoder):
        publish(
            module,
            signatures,
            path,
            card=_card(encoder, preprocessing) | (metadata or {}),
            inputs=inputs,
            expected=expected,
            model_name=model_name,
        )


def load_encoder(path: str) -> tuple[Callable[..., tf.Tensor], Preprocessing, dict[str, Any]]:
    """Loads an exported encoder for evaluation.

    Returns:
        A function `(images, training=False)`, preprocessed images float32 `[B, S, S, 3]` →
        `[B, D]`; the preprocessing of those images, which a `prepare` is no part of; the model
        card.

    Raises:
        UserError: no SavedModel of `save_encoder`.
    """
    model, preprocessing, card = load_saved_model(path)
    # Refers to the model, without which its functions lose their weights.
    return lambda images, training=False: model.encode(images), preprocessing, card


def load_saved_model(path: str) -> tuple[Any, Preprocessing, dict[str, Any]]:
    """As `load_encoder`, but with the SavedModel itself: `model.signatures`, `model.encode`."""
    try:
        with tf.io.gfile.GFile(os.path.join(path, CARD_PATH)) as file:
            card = json.load(file)
        preprocessing = Preprocessing(**card["preprocessing"])
        model = tf.saved_model.load(path)
        if not hasattr(model, "encode"):
            raise ValueError("it has no function `encode`")
    except (OSError, tf.errors.OpError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"'{path}' is no encoder exported by byol_tf ({error}); give the version folder that "
            "byol-export wrote, which holds saved_model.pb."
        ) from error
    return model, preprocessing, card


def _prepared(prepare: Callable | None, image_bytes: tf.Tensor) -> tf.Tensor:
    return image_bytes if prepare is None else prepare(image_bytes)


def _servable(encoder, preprocessing, prepare) -> tuple[tf.Module, dict[str, Callable]]:
    """What to save, and its signatures."""
    size = preprocessing.image_size

    def function(embed, spec):
        return tf.function(embed, autograph=False, input_signature=[spec])

    def embedding(preprocess, inputs):
        def embed(part):
            return module.encode(preprocess(part))  # Traced once for all signatures.

        return {"embedding": _in_parts(embed, inputs, encoder.output_shape[-1])}

    def preprocess_files(image_bytes):
        return preprocessing.from_bytes(_prepared(prepare, bounded(image_bytes)))

    def preprocess_pixels(images):
        if prepare is None:
            return preprocessing(images)
        # `prepare` takes files, and all signatures have to agree: PNG loses nothing, which is worth
        # the time that the least compression takes.
        return preprocess_files(tf.io.encode_png(images, compression=1))

    def from_bytes(image_bytes):
        return embedding(preprocess_files, image_bytes)

    def from_pixels(images):
        return embedding(preprocess_pixels, images)

    def from_examples(examples):
        features = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
        return from_bytes(tf.io.parse_example(examples, features)["image/encoded"])

    module = tf.Module()
    # The weights and not the encoder, which would add every Keras layer to the file.
    module.weights = encoder.weights
    module.prepare = prepare
    module.encode = function(
        lambda images: tf.cast(encoder(images, training=False), tf.float32),
        tf.TensorSpec([None, size, size, 3], tf.float32, "images"),
    )
    pixels = tf.TensorSpec([None, None, None, 3], tf.uint8, "images")
    return module, {
        "serving_default": function(from_bytes, tf.TensorSpec([None], tf.string, "image_bytes")),
        "pixels": function(from_pixels, pixels),
        "examples": function(from_examples, tf.TensorSpec([None], tf.string, "examples")),
    }


def _in_parts(embed: Callable, inputs: tf.Tensor, dimensions: int) -> tf.Tensor:
    """`embed` of inputs `[B, ...]`, at most `_IMAGES_AT_ONCE` at a time; `[0, D]` where B = 0."""
    batch_size = tf.shape(inputs)[0]

    def next_part(start, embeddings):
        part = embed(inputs[start : start + _IMAGES_AT_ONCE])
        return start + _IMAGES_AT_ONCE, tf.concat([embeddings, part], axis=0)

    _, embeddings = tf.while_loop(
        lambda start, _: start < batch_size,
        next_part,
        (0, tf.zeros([0, dimensions])),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, dimensions])),
        parallel_iterations=1,
    )
    return embeddings


def _card(encoder: keras.Model, preprocessing: Preprocessing) -> dict[str, Any]:
    return {
        "architecture": encoder.name,
        "parameters": encoder.count_params(),
        "embedding_size": encoder.output_shape[-1],
        "preprocessing": dataclasses.asdict(preprocessing),
        "versions": {"byol_tf": byol_tf.__version__, "tensorflow": tf.__version__},
    }


def _expected(encoder, preprocessing, prepare, inputs) -> np.ndarray:
    """The embedding of the image in `inputs`, by the encoder in memory: `[1, D]`."""
    files = _prepared(prepare, tf.constant(inputs["serving_default"]["image_bytes"]))
    if files.dtype != tf.string or files.shape != [1]:
        raise UserError(
            f"prepare gives {files.dtype.name} {files.shape} for one image file; have it give one "
            "image file for each, string [B]."
        )
    embedding = encoder(preprocessing.from_bytes(files), training=False).numpy()
    if not np.isfinite(embedding).all():
        raise UserError(
            f"the encoder '{encoder.name}' gives values that are not finite for a plain image; its "
            "weights have diverged: export an earlier checkpoint."
        )
    return embedding


def _check(encoder: keras.Model, preprocessing: Preprocessing) -> None:
    check_flat(encoder.output_shape)
    size = preprocessing.image_size
    if not tf.TensorShape(encoder.input_shape).is_compatible_with([None, size, size, 3]):
        raise UserError(
            f"the encoder takes images {encoder.input_shape}, the preprocessing makes them {size} "
            "pixels wide; give the image_size the encoder was built with."
        )

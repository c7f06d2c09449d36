"""Exports an encoder as a SavedModel, the contract between training and serving.

| signature | input | output |
|---|---|---|
| `serving_default` | `image_bytes`: string `[B]` | `embedding`: float32 `[B, D]` |
| `pixels` | `images`: uint8 `[B, H, W, C]` | `embedding`: float32 `[B, D]` |
| `examples` | `examples`: string `[B]` | `embedding`: float32 `[B, D]` |

`image_bytes` are complete files (JPEG, PNG, BMP, GIF; of C bands other than 1 and 3, PNG as
`images.bands.encode_png` writes it), `images` decoded images of any size (RGB, or as many channels
as the encoder takes; uint16 if its preprocessing is of 16 bits), `examples` serialized tf.Examples
with the feature `image/encoded`, as TFX's BulkInferrer and Evaluator send them. The graph first
limits what a file unpacks to (`size_limit.bounded`), then does what a pipeline does to files
(`prepare`), then the whole preprocessing. For evaluation the model also has the function `encode`:
preprocessed images float32 `[B, S, S, C]` -> `[B, D]`. `assets.extra/` holds warm-up requests and
`model_card.json`.
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
from byol_tf.export.float32 import in_float32
from byol_tf.export.publish import CARD_PATH, check_new, publish
from byol_tf.export.warmup import warmup_inputs
from byol_tf.images import bands
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.images.size_limit import bounded
from byol_tf.keras_compat import native, without_xla
from byol_tf.models.networks import check_flat

# TFX sends up to 1000 images at once, TF Serving up to max_batch_size. Pixels and activations are
# in memory for this many at a time; larger batches were not faster.
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

    It appears under its name only after it is complete, reloaded and compared with the encoder. It
    uses no XLA, which TF Serving turns off by default, and always computes in float32: most serving
    CPUs emulate bfloat16, and its eight bits would make embeddings differ between machines.

    Args:
        encoder: Keras model `[B, S, S, C]` -> `[B, D]`.
        path: Path of the new SavedModel, `<model>/<version>`; TF Serving needs a number as version.
        image_size: S, for the default `Preprocessing` of that size.
        preprocessing: Preprocessing to use instead of the default one.
        prepare: Function string `[B]` -> string `[B]`, from image files to image files, which all
            signatures apply before they decode: the Transform graph of a pipeline. If it uses
            variables or tables, it is a tf.Module or a Keras layer that holds them.
        metadata: Additional entries of the model card (JSON), such as the config and the metrics.
        model_name: Name of the model in the warm-up requests, by default `<model>` of the path.

    Raises:
        UserError: The path exists or cannot be written; the encoder has no `[B, D]` output, takes
            images of another size, gives values that are not finite, or cannot be copied to
            float32; `prepare` does not return string `[B]`.
    """
    preprocessing = preprocessing or Preprocessing(image_size)
    check_new(path)
    check_fits(encoder, preprocessing)
    encoder = in_float32(encoder)
    inputs = warmup_inputs(preprocessing)
    expected = _expected(encoder, preprocessing, prepare, inputs)
    module, signatures = _servable(encoder, preprocessing, prepare)
    with without_xla(encoder):
        publish(
            module,
            signatures,
            path,
            card=describe(encoder, preprocessing) | (metadata or {}),
            inputs=inputs,
            expected=expected,
            model_name=model_name,
        )


def load_encoder(path: str) -> tuple[Callable[..., tf.Tensor], Preprocessing, dict[str, Any]]:
    """Loads an exported encoder for evaluation.

    Args:
        path: Path of the SavedModel, the version folder.

    Returns:
        A function `(images, training=False)`, preprocessed images float32 `[B, S, S, C]` ->
        `[B, D]`; the preprocessing of those images, without `prepare`; the model card.

    Raises:
        UserError: The path is not a SavedModel of `save_encoder`.
    """
    model, preprocessing, card = load_saved_model(path)
    # The function keeps the model alive, without which it would lose its weights.
    return lambda images, training=False: model.encode(images), preprocessing, card


def load_saved_model(path: str) -> tuple[Any, Preprocessing, dict[str, Any]]:
    """Loads the SavedModel itself (`model.signatures`, `model.encode`), its preprocessing and card.

    Args and errors are those of `load_encoder`.
    """
    try:
        preprocessing, card = read_card(path)
        model = tf.saved_model.load(path)
        if not hasattr(model, "encode"):
            raise ValueError("it has no function `encode`")
    except (OSError, tf.errors.OpError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"'{path}' is not an encoder exported by byol_tf ({error}); give the version folder "
            "that byol-export wrote, which holds saved_model.pb."
        ) from error
    return model, preprocessing, card


def read_card(path: str) -> tuple[Preprocessing, dict[str, Any]]:
    """Returns the preprocessing of a SavedModel and its model card, without loading the model.

    Raises:
        OSError, tf.errors.OpError, ValueError, KeyError, TypeError: There is no card, or it is
            damaged.
    """
    with tf.io.gfile.GFile(os.path.join(path, CARD_PATH)) as file:
        card = json.load(file)
    return Preprocessing(**card["preprocessing"]), card


def saved_weights(encoder: keras.Model) -> list[tf.Variable]:
    """Returns the encoder's weights in the order of a SavedModel's `weights`.

    It is that of Keras 2, trainable ones first; in Keras 3's `encoder.weights` they are mixed.
    """
    weights = [*encoder.trainable_weights, *encoder.non_trainable_weights]
    return [native(weight) for weight in weights]


def _prepared(prepare: Callable | None, image_bytes: tf.Tensor) -> tf.Tensor:
    return image_bytes if prepare is None else prepare(image_bytes)


def _servable(
    encoder: keras.Model, preprocessing: Preprocessing, prepare: Callable | None
) -> tuple[tf.Module, dict[str, Callable]]:
    """Returns the module to save and its signatures."""

    def function(embed, spec):
        return tf.function(embed, autograph=False, input_signature=[spec])

    def embedding(preprocess, inputs):
        def embed(part):
            return module.encode(preprocess(part))  # Traced once, for all signatures.

        return {"embedding": _in_parts(embed, inputs, encoder.output_shape[-1])}

    def preprocess_files(image_bytes):
        return preprocessing.from_bytes(_prepared(prepare, bounded(image_bytes)))

    def preprocess_pixels(images):
        if prepare is None:
            return preprocessing(images)
        # `prepare` takes files, and all signatures have to agree. PNG is lossless; the lowest
        # compression costs little time.
        return preprocess_files(bands.encode_png(images, compression=1))

    def from_bytes(image_bytes):
        return embedding(preprocess_files, image_bytes)

    def from_pixels(images):
        return embedding(preprocess_pixels, images)

    def from_examples(examples):
        features = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
        return from_bytes(tf.io.parse_example(examples, features)["image/encoded"])

    module = tf.Module()
    # Only the weights: the encoder would add every Keras layer to the file.
    module.weights = saved_weights(encoder)
    module.prepare = prepare
    module.encode = function(
        lambda images: tf.cast(encoder(images, training=False), tf.float32),
        tf.TensorSpec([None, *preprocessing.shape], tf.float32, "images"),
    )
    pixels = tf.TensorSpec(
        [None, None, None, preprocessing.channels], preprocessing.pixel_type, "images"
    )
    return module, {
        "serving_default": function(from_bytes, tf.TensorSpec([None], tf.string, "image_bytes")),
        "pixels": function(from_pixels, pixels),
        "examples": function(from_examples, tf.TensorSpec([None], tf.string, "examples")),
    }


def _in_parts(embed: Callable, inputs: tf.Tensor, dimensions: int) -> tf.Tensor:
    """Embeds inputs `[B, ...]`, at most `_IMAGES_AT_ONCE` at a time; B may be 0."""
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


def describe(encoder: keras.Model, preprocessing: Preprocessing) -> dict[str, Any]:
    """Returns the entries of the model card that every format has."""
    return {
        "architecture": encoder.name,
        "parameters": encoder.count_params(),
        "embedding_size": encoder.output_shape[-1],
        "preprocessing": dataclasses.asdict(preprocessing),
        "versions": {"byol_tf": byol_tf.__version__, "tensorflow": tf.__version__},
    }


def _expected(
    encoder: keras.Model,
    preprocessing: Preprocessing,
    prepare: Callable | None,
    inputs: dict[str, dict[str, np.ndarray]],
) -> np.ndarray:
    """Returns the embedding `[1, D]` of the image in `inputs`, by the encoder in memory."""
    files = _prepared(prepare, tf.constant(inputs["serving_default"]["image_bytes"]))
    if files.dtype != tf.string or files.shape != [1]:
        raise UserError(
            f"prepare returns {files.dtype.name} {files.shape} for one image file; it must return "
            "one image file for each, string [B]."
        )
    embedding = encoder(preprocessing.from_bytes(files), training=False).numpy()
    check_finite(embedding, encoder.name)
    return embedding


def check_finite(embedding: np.ndarray, name: str) -> None:
    """Raises `UserError` if the encoder `name` gave values that are not finite."""
    if not np.isfinite(embedding).all():
        raise UserError(
            f"the encoder '{name}' gives values that are not finite for a plain image; its "
            "weights have diverged, so export an earlier checkpoint."
        )


def check_fits(encoder: keras.Model, preprocessing: Preprocessing) -> None:
    """Raises `UserError` unless the encoder is `[B, S, S, C]` -> `[B, D]`, as preprocessed."""
    check_flat(encoder.output_shape)
    if not tf.TensorShape(encoder.input_shape).is_compatible_with([None, *preprocessing.shape]):
        raise UserError(
            f"the encoder takes images {encoder.input_shape}, but the preprocessing makes them "
            f"{preprocessing.shape[1]} pixels wide with {preprocessing.channels} channels; give "
            "the image_size, mean and std that the encoder was built for."
        )

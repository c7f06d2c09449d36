"""Encoder → SavedModel: the contract between training and serving.

| signature | input | output |
|---|---|---|
| `serving_default` | `image_bytes`: string [B] | `embedding`: float32 [B, D] |
| `pixels` | `images`: uint8 [B, H, W, 3] | `embedding`: float32 [B, D] |
| `examples` | `examples`: string [B] | `embedding`: float32 [B, D] |

`image_bytes` are whole files (JPEG, PNG, BMP, GIF), `images` decoded RGB of any size, `examples`
serialized tf.Examples with the feature `image/encoded`, which is what TFX's BulkInferrer and
Evaluator send. The whole preprocessing is in the graph. For evaluation the model also has the
function `encode`: preprocessed images float32 [B, S, S, 3] → [B, D]. `assets.extra/` holds warm-up
requests and `model_card.json`.
"""

import contextlib
import dataclasses
import json
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import byol_tf
from byol_tf.errors import UserError
from byol_tf.evaluation.features import check_flat
from byol_tf.portable import in_float32, without_xla
from byol_tf.preprocessing import Preprocessing
from byol_tf.warmup import warmup_inputs, write_warmup

CARD_PATH = "assets.extra/model_card.json"

# TFX sends up to 1000 images at once, TF Serving as many as max_batch_size says: pixels and
# activations are held for this many at a time. Larger batches were not faster.
_IMAGES_AT_ONCE = 64
_TOLERANCE = 1e-4


def save_encoder(
    encoder: keras.Model,
    path: str | os.PathLike,
    *,
    image_size: int = 224,
    preprocessing: Preprocessing | None = None,
    metadata: dict[str, Any] | None = None,
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
        metadata: further entries of the model card, such as the config and the metrics; JSON.

    Raises:
        UserError: the path exists or cannot be written; the encoder has no `[B, D]` output, takes
            no images of that size, gives values that are not finite, or cannot be copied to
            float32.
    """
    path = os.fspath(path).rstrip("/")
    preprocessing = preprocessing or Preprocessing(image_size)
    _check(encoder, path, preprocessing)
    encoder = in_float32(encoder)
    inputs = warmup_inputs(preprocessing.image_size)

    # Not a number, so no server takes it for a version.
    temporary = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        module, signatures = _servable(encoder, preprocessing)
        with _writing(path), without_xla(encoder):
            tf.saved_model.save(module, temporary, signatures=signatures)
            write_warmup(temporary, os.path.basename(os.path.dirname(path)) or encoder.name, inputs)
            _write_card(temporary, encoder, preprocessing, metadata or {})
        _compare(temporary, encoder, preprocessing, inputs)
        with _writing(path):
            tf.io.gfile.rename(temporary, path)
    finally:
        if tf.io.gfile.exists(temporary):
            tf.io.gfile.rmtree(temporary)


def load_encoder(path: str) -> tuple[Callable[..., tf.Tensor], Preprocessing, dict[str, Any]]:
    """Loads an exported encoder for evaluation.

    Returns:
        A function `(images, training=False)`, preprocessed images float32 `[B, S, S, 3]` →
        `[B, D]`; the preprocessing of those images; the model card.

    Raises:
        UserError: no SavedModel of `save_encoder`.
    """
    try:
        with tf.io.gfile.GFile(os.path.join(path, CARD_PATH)) as file:
            card = json.load(file)
        preprocessing = Preprocessing(**card["preprocessing"])
        model = tf.saved_model.load(path)
    except (OSError, tf.errors.OpError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"'{path}' is no encoder exported by byol_tf ({error}); give the version folder that "
            "byol-export wrote, which holds saved_model.pb."
        ) from error
    # Refers to the model, without which its functions lose their weights.
    return lambda images, training=False: model.encode(images), preprocessing, card


def _servable(encoder: keras.Model, preprocessing: Preprocessing) -> tuple[tf.Module, dict]:
    """What to save, and its signatures."""
    size = preprocessing.image_size

    def function(embed, spec):
        return tf.function(embed, autograph=False, input_signature=[spec])

    def embedding(preprocess, inputs):
        def embed(part):
            return module.encode(preprocess(part))  # Traced once for all signatures.

        return {"embedding": _in_parts(embed, inputs, encoder.output_shape[-1])}

    def from_bytes(image_bytes):
        return embedding(preprocessing.from_bytes, image_bytes)

    def from_pixels(images):
        return embedding(preprocessing, images)

    def from_examples(examples):
        features = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
        return from_bytes(tf.io.parse_example(examples, features)["image/encoded"])

    module = tf.Module()
    # The weights and not the encoder, which would add every Keras layer to the file.
    module.weights = encoder.weights
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


def _write_card(folder, encoder, preprocessing, metadata) -> None:
    card = {
        "architecture": encoder.name,
        "parameters": encoder.count_params(),
        "embedding_size": encoder.output_shape[-1],
        "preprocessing": dataclasses.asdict(preprocessing),
        "versions": {"byol_tf": byol_tf.__version__, "tensorflow": tf.__version__},
    }
    with tf.io.gfile.GFile(os.path.join(folder, CARD_PATH), "w") as file:
        file.write(json.dumps(card | metadata, indent=2, sort_keys=True) + "\n")


def _compare(folder, encoder, preprocessing, inputs) -> None:
    """Raises unless each signature of the written model gives what the encoder gives."""
    expected = encoder(preprocessing(inputs["pixels"]["images"]), training=False).numpy()
    if not np.isfinite(expected).all():
        raise UserError(
            f"the encoder '{encoder.name}' gives values that are not finite for a plain image; its "
            "weights have diverged: export an earlier checkpoint."
        )
    model = tf.saved_model.load(folder)
    for signature_name, values in inputs.items():
        values = {name: tf.constant(value) for name, value in values.items()}
        difference = model.signatures[signature_name](**values)["embedding"].numpy() - expected
        if np.abs(difference).max() > _TOLERANCE * max(1.0, np.abs(expected).max()):
            raise RuntimeError(
                f"the exported signature {signature_name} differs from the encoder by up to "
                f"{np.abs(difference).max()}; nothing was written."
            )


def _check(encoder: keras.Model, path: str, preprocessing: Preprocessing) -> None:
    if tf.io.gfile.exists(path):
        raise UserError(f"'{path}' exists already; give a new version number, or remove it first.")
    check_flat(tf.TensorShape(encoder.output_shape))
    size = preprocessing.image_size
    if not tf.TensorShape(encoder.input_shape).is_compatible_with([None, size, size, 3]):
        raise UserError(
            f"the encoder takes images {encoder.input_shape}, the preprocessing makes them {size} "
            "pixels wide; give the image_size the encoder was built with."
        )


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    """Turns a failure to write into a sentence."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise UserError(f"'{path}' cannot be written ({error}); choose another path.") from error

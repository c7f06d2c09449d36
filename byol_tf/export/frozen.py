"""What other formats are made from: an encoder as a function, its preprocessing and its card."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.export.encoder import (
    check_finite,
    check_fits,
    describe,
    load_saved_model,
    saved_weights,
)
from byol_tf.export.float32 import in_float32
from byol_tf.export.publish import TOLERANCE, card_beside, check_new, relative_difference
from byol_tf.export.warmup import warmup_inputs
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.keras_compat import without_xla

# A protobuf message and a flatbuffer are smaller than 2 GiB; the graph takes a few MB of it.
_MAX_PARAMETERS = (2**31 - 2**26) // 4
_PREPARE = (
    "what the SavedModel does to image files before its preprocessing: a pipeline's Transform "
    "reduces large ones"
)


@dataclasses.dataclass(frozen=True)
class FrozenEncoder:
    """An encoder that computes in float32 and is not trained further.

    Attributes:
        encode: Function from preprocessed images float32 `[B, S, S, C]` to float32 `[B, D]`.
        preprocessing: Preprocessing of its images.
        card: Entries of the model card.
        weights: What `encode` reads, for a tf.Module that is to be saved: variables, or an object
            that tracks them.
        model: The Keras model behind `encode`; None for an exported SavedModel.
    """

    encode: Callable[[tf.Tensor], tf.Tensor]
    preprocessing: Preprocessing
    card: dict[str, Any]
    weights: Any
    model: keras.Model | None = None

    def traced(
        self, preprocess: Callable[[tf.Tensor], tf.Tensor], images: tf.TensorSpec
    ) -> Callable[..., dict[str, tf.Tensor]]:
        """Returns a tf.function `images` -> {`embedding`}, traced without XLA.

        Args:
            preprocess: Function from `images` to what the encoder takes.
            images: Type of the images; its name is the input's.
        """

        @tf.function(autograph=False, input_signature=[images])
        def embed(images):
            return {"embedding": self.encode(preprocess(images))}

        with without_xla(self.model) if self.model else contextlib.nullcontext():
            embed.get_concrete_function()
        return embed

    @property
    def channels(self) -> int:
        """The number of channels of the images."""
        return self.preprocessing.channels

    @property
    def pixels(self) -> str:
        """What the channels are, for a card: RGB, or their number."""
        return "RGB" if self.channels == 3 else f"{self.channels} channels"


def freeze(
    encoder: keras.Model | str | os.PathLike,
    preprocessing: Preprocessing | None,
    metadata: dict[str, Any] | None,
) -> FrozenEncoder:
    """Returns the encoder that a file is to be made from.

    Args:
        encoder: Keras model `[B, S, S, C]` -> `[B, D]`, or the path of a SavedModel of
            `save_encoder`.
        preprocessing: Preprocessing of a Keras model's images; None for a SavedModel, which holds
            its own.
        metadata: Additional entries of the card.

    Raises:
        UserError: The encoder cannot be exported, or there is no such SavedModel.
    """
    if not isinstance(encoder, keras.Model):
        loaded, own, card = load_saved_model(os.fspath(encoder))
        if preprocessing not in (None, own):
            raise UserError(f"'{encoder}' was exported with {own}; leave preprocessing out.")
        if hasattr(loaded, "prepare"):
            card = card | {"not_inside": _PREPARE}
        # The function keeps the model alive, without which it would lose its weights.
        return FrozenEncoder(
            lambda images: loaded.encode(images), own, card | (metadata or {}), loaded
        )
    if preprocessing is None:
        raise UserError(
            f"the encoder '{encoder.name}' is a Keras model, which does not know its images' size "
            "and normalisation; give its preprocessing."
        )
    check_fits(encoder, preprocessing)
    model = in_float32(encoder)
    return FrozenEncoder(
        lambda images: tf.cast(model(images, training=False), tf.float32),
        preprocessing,
        describe(model, preprocessing) | (metadata or {}),
        saved_weights(model),
        model,
    )


def sizing(preprocessing: Preprocessing) -> str:
    """Returns how a model card says what a caller does to an image if the format cannot."""
    if preprocessing.resize == "bilinear":
        return (
            "the upright image resized to a shorter side of round(S / crop_fraction) (bilinear, "
            "antialiased, as Pillow does), and of that the central S x S"
        )
    return (
        "the central square of side int(crop_fraction * shorter side) of the upright image, "
        "resized to S x S (bicubic, not antialiased)"
    )


def check_path(path: str | os.PathLike, ending: str) -> None:
    """Raises `UserError` unless `path` ends with `ending` and neither it nor its card exists."""
    if not os.fspath(path).endswith(ending):
        raise UserError(f"'{path}' does not end with {ending}; give a path that does.")
    check_new(path)
    check_new(card_beside(path))


def check_parameters(frozen: FrozenEncoder, what: str) -> None:
    """Raises `UserError` if the encoder has too many weights for a file of 2 GiB."""
    parameters = frozen.card["parameters"]
    if parameters > _MAX_PARAMETERS:
        raise UserError(
            f"the encoder has {parameters:,} parameters, and a file of {what} holds at most "
            f"{_MAX_PARAMETERS:,} (2 GiB); serve the SavedModel."
        )


def conversion_error(frozen: FrozenEncoder, what: str, error: Exception) -> UserError:
    """Returns the sentence for an encoder that a converter or its runtime does not support."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return UserError(
        f"the encoder '{frozen.card['architecture']}' cannot be converted to {what} "
        f"({lines[0] if lines else type(error).__name__}); export another format, or replace the "
        "layer that it has no operation for."
    )


def compare(
    frozen: FrozenEncoder,
    preprocess: Callable[[tf.Tensor], tf.Tensor],
    run: Callable[[np.ndarray], np.ndarray],
    batches: Iterable[np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Runs a converted file and the encoder on the same inputs.

    Args:
        frozen: The encoder.
        preprocess: Function from an input of the file to what `frozen.encode` takes.
        run: Function from an input of the file to its output, by the format's runtime.
        batches: Inputs of the file, each `[b, ...]`.

    Returns:
        The outputs of the file and those of the encoder, float32 `[N, D]`.

    Raises:
        UserError: The encoder gives values that are not finite.
    """
    pairs = [(run(batch), frozen.encode(preprocess(batch)).numpy()) for batch in batches]
    outputs, expected = (np.concatenate(rows) for rows in zip(*pairs, strict=True))
    check_finite(expected, frozen.card["architecture"])
    return outputs, expected


def check_equal(outputs: np.ndarray, expected: np.ndarray, what: str) -> dict[str, Any]:
    """Returns the card's entries of a comparison.

    Raises:
        UserError: The outputs of the converted file differ from those of the encoder.
    """
    difference = relative_difference(outputs, expected)
    if difference > TOLERANCE:
        raise UserError(
            f"the {what} file gives other embeddings than the encoder, by up to {difference:.2g} "
            f"where {TOLERANCE:g} is allowed, so it was not written; the format's converter does "
            "not support this encoder."
        )
    return {"images": len(outputs), "largest_difference": difference}


def pictures(preprocessing: Preprocessing) -> list[np.ndarray]:
    """Returns drawn images `[b, H, W, C]` to compare a file on; H and W differ."""
    size = preprocessing.image_size
    image = warmup_inputs(preprocessing, 3)["pixels"]["images"]
    # Inverted by ~: 255 - v, or 65535 - v.
    return [image[:, :size, :size], np.concatenate([image, ~image])[:, : 2 * size, 1:]]

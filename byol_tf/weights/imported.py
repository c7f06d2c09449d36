"""Builds the encoder that weights belong to, and the config that says how to build it again."""

from collections.abc import Sequence

import keras
import ml_collections

from byol_tf.build import build_float32_encoder, preprocessing_from_config
from byol_tf.errors import UserError
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.weights.encoder_weights import EncoderWeights


def build(
    weights: EncoderWeights,
    *,
    image_size: int | None = None,
    crop_fraction: float | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    stem: str | None = None,
) -> tuple[keras.Model, ml_collections.ConfigDict]:
    """Returns the encoder with the weights, in float32, and its config.

    The config has the fields that evaluation and fine-tuning read: method, seed, encoder and
    preprocessing. None takes what the weights' source says.

    Args:
        weights: Weights of a `networks.resnet`.
        image_size: Side of the input, in pixels.
        crop_fraction: Side of the centre crop, as a fraction of the shorter side.
        mean: Mean of each channel in [0, 1].
        std: Standard deviation of each channel, of values in [0, 1].
        stem: Stem of the network, of those with the same kernel.

    Raises:
        UserError: The network is not known from the weights, or mean and std have another number
            of channels.
    """
    if weights.encoder is None:
        raise UserError(
            f"'{weights.path}' does not say which network its weights are of; give it as "
            "--config.encoder.weights to byol-pretrain, with the encoder in the config."
        )
    source = weights.preprocessing or Preprocessing(
        224 if weights.encoder["stem"] == "imagenet" else 32
    )
    channels = int(weights.layers["stem_conv"][0].shape[2])
    mean, std = tuple(mean or source.mean), tuple(std or source.std)
    if (len(mean), len(std)) != (channels, channels):
        raise UserError(
            f"the weights in '{weights.path}' are for images of {channels} channels, but mean has "
            f"{len(mean)} values and std {len(std)}; give --mean and --std with {channels}."
        )
    config = ml_collections.ConfigDict(
        {
            "method": weights.method,
            "seed": 0,
            "image_size": image_size or source.image_size,
            "encoder": weights.encoder | ({"stem": stem} if stem else {}),
            "channels": channels,
            "bit_depth": source.bit_depth,
            "normalize": {"mean": mean, "std": std},
            "eval_crop_fraction": crop_fraction or source.crop_fraction,
            "eval_resize": source.resize,
        }
    )
    preprocessing_from_config(config)  # Refuses numbers that are out of range.
    encoder = build_float32_encoder(config)
    weights.assign_to(encoder)
    return encoder, config

"""The ImageNet weights that keras.applications downloads: only when asked for by name."""

import re

import keras
from absl import logging

from byol_tf.errors import UserError
from byol_tf.weights.encoder_weights import EncoderWeights
from byol_tf.weights.keras_model import of_model

# In EfficientNet V1. Our images are normalised before, so it must change nothing.
_NORMALIZATION = re.compile(r"^normalization(_\d+)?$")


def read(name: str) -> EncoderWeights:
    """Returns the weights of a class of keras.applications, without its classifier.

    Keras keeps what it downloads in ~/.keras/models (KERAS_HOME) and asks for it once.

    Args:
        name: Name of the class, such as EfficientNetV2B0.

    Raises:
        UserError: There is no such class, or Keras cannot get the file.
    """
    build = vars(keras.applications).get(name)
    if not (name[:1].isupper() and callable(build)):
        raise UserError(
            f"'imagenet' are weights of keras.applications, which has no '{name}'; give one of its "
            "classes as config.encoder.name, or a file as config.encoder.weights."
        )
    logging.info(
        "weights=imagenet: Keras takes the ImageNet weights of %s from its cache (~/.keras/models, "
        "or KERAS_HOME), or downloads them there.",
        name,
    )
    try:
        model = build(include_top=False, weights="imagenet", input_shape=(224, 224, 3))
    # Keras raises a plain Exception when a download fails.
    except Exception as error:
        raise UserError(
            f"Keras has no ImageNet weights of {name} ({error}); download the file on a machine "
            "that can, and give its path as config.encoder.weights."
        ) from error
    weights = of_model(model, "imagenet", f"keras.applications.{name} on ImageNet")
    for layer, arrays in weights.layers.items():
        if _NORMALIZATION.match(layer):
            mean, variance = arrays[:2]
            mean[...], variance[...] = 0, 1
    return weights

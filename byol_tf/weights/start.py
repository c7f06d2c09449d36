"""The weights that a training starts from, `config.encoder.weights`."""

import ml_collections
from absl import logging

from byol_tf.weights import imagenet
from byol_tf.weights.encoder_weights import EncoderWeights
from byol_tf.weights.formats import read


def read_start(config: ml_collections.ConfigDict) -> EncoderWeights | None:
    """Returns the weights that `config.encoder.weights` names, None if it names none.

    Raises:
        UserError: They cannot be read, or are of a network that pads otherwise than the config's.
    """
    path = config.encoder.get("weights")
    if not path:
        return None
    if path == "imagenet":
        weights = imagenet.read(config.encoder.get("name", "resnet"))
    else:
        weights = read(path)
    weights.check_same_network(config.encoder.to_dict())
    logging.info(
        "the encoder starts from '%s': %s, %d layers, fingerprint %s",
        path,
        weights.source,
        len(weights.layers),
        weights.fingerprint,
    )
    return weights

"""Weights for images of another number of channels name both numbers."""

import keras
import numpy as np
import pytest

from byol_tf.errors import UserError
from byol_tf.weights import imported
from byol_tf.weights.encoder_weights import EncoderWeights


def network(channels: int) -> keras.Model:
    return keras.Sequential(
        [keras.Input((8, 8, channels)), keras.layers.Conv2D(4, 3, name="stem_conv")]
    )


def weights_of(model: keras.Model, **fields) -> EncoderWeights:
    layers = {layer.name: layer.get_weights() for layer in model.layers}
    return EncoderWeights("imagenet.pth", "a test", layers, **fields)


def test_both_numbers_are_named():
    with pytest.raises(UserError, match=r"images of 3 channels, and the encoder takes 5; give"):
        weights_of(network(3)).assign_to(network(5))
    five, other = network(5), network(5)
    weights_of(five).assign_to(other)
    np.testing.assert_array_equal(other.get_weights()[0], five.get_weights()[0])


def test_an_import_needs_a_normalisation_of_as_many_channels():
    weights = weights_of(network(5), encoder={"depth": 18, "stem": "small"})
    with pytest.raises(UserError, match=r"images of 5 channels, but mean has 3 .* with 5"):
        imported.build(weights)

"""Weights of other people's encoders, and of our own, read from their files."""

from byol_tf.weights.encoder_weights import EncoderWeights
from byol_tf.weights.formats import read
from byol_tf.weights.start import read_start

__all__ = ["EncoderWeights", "read", "read_start"]

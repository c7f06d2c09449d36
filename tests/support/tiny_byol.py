"""A BYOL of two convolutions for images of 16 pixels and three classes."""

import keras

from byol_tf.models import networks
from byol_tf.models.byol import BYOL


def make_model() -> BYOL:
    """Returns the model, not compiled, for a run of ten steps."""
    layers = [keras.Input((16, 16, 3))]
    for _ in range(2):
        layers += [
            keras.layers.Conv2D(8, 3, 2, use_bias=False),
            networks.BatchNorm(),
            keras.layers.ReLU(),
        ]
    encoder = keras.Sequential([*layers, keras.layers.GlobalAveragePooling2D()])
    return BYOL(
        encoder, total_steps=10, base_ema=0.9, projection_size=8, hidden_size=16, num_classes=3
    )

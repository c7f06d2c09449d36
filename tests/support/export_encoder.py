"""Exports an encoder with the same weights on every stack, for `test_stacks.py`.

As a program (`export_encoder.py PATH`) it runs in the interpreter of the other stack.
"""

import sys

import keras
import numpy as np

from byol_tf import export
from byol_tf.models import networks

SIZE = 32


def build() -> keras.Model:
    """Returns a narrow ResNet-18 for images of `SIZE` pixels with reproducible weights."""
    encoder = networks.resnet(18, 0.25, SIZE, "small")
    rng = np.random.default_rng(0)

    def values(weight):
        if weight.ndim == 1:  # Of BatchNorm; a variance must be positive.
            return rng.uniform(0.5, 1.5, weight.shape)
        return rng.normal(size=weight.shape) / np.sqrt(np.prod(weight.shape[:-1]))

    # By layer: the orders of all weights differ between versions of Keras.
    for layer in encoder.layers:
        layer.set_weights([values(weight) for weight in layer.get_weights()])
    return encoder


if __name__ == "__main__":
    export.save_encoder(build(), sys.argv[1], image_size=SIZE)

"""Fixtures of several formats: real images, and encoders by what a converter has to do."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from byol_tf.models import networks


@pytest.fixture(scope="session")
def photos(images_dir):
    """Real images, uint8 `[40, 32, 32, 3]`, four of each class."""
    files = sorted((images_dir / "test").glob("*/000[0-3].jpg"))
    return np.stack([np.asarray(Image.open(file)) for file in files])


@pytest.fixture(scope="session")
def make_resnet():
    """Returns a function size -> ResNet-10, random also in what a new network has as 0 and 1."""

    def make(size):
        encoder = networks.resnet(10, 0.25, size, "small")
        rng = np.random.default_rng(0)
        for weight in encoder.weights:
            if "kernel" not in weight.name:
                weight.assign(rng.uniform(0.3, 0.9, size=weight.shape))
        return encoder

    return make


@pytest.fixture(scope="session")
def make_small():
    """Returns a function size -> an encoder that is converted in a second."""

    def make(size):
        return keras.Sequential(
            [
                keras.Input((size, size, 3)),
                keras.layers.Conv2D(12, 3, activation="relu"),
                networks.BatchNorm(),
                keras.layers.GlobalAveragePooling2D(),
            ]
        )

    return make


@keras.saving.register_keras_serializable("tests")
class SingularValues(keras.layers.Layer):
    """A layer whose operation neither ONNX nor TFLite has."""

    def call(self, images):
        return tf.linalg.svd(images[..., 0], compute_uv=False)

    def compute_output_shape(self, shape):
        return (*shape[:-3], shape[-2])


@pytest.fixture
def not_convertible():
    """An encoder of images of 32 pixels, called odd."""
    return keras.Sequential([keras.Input((32, 32, 3)), SingularValues()], name="odd")

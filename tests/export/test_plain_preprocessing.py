import numpy as np
import pytest
import tensorflow as tf

from byol_tf.export.plain_preprocessing import preprocess
from byol_tf.images.preprocessing import Preprocessing


@pytest.mark.parametrize("crop_fraction", [0.875, 1.0, 0.29])
@pytest.mark.parametrize("size", [32, 47])
def test_it_equals_tensorflows_kernel(size, crop_fraction):
    """Noise, where one position between pixels off by 1/1024 would show."""
    preprocessing = Preprocessing(size, crop_fraction, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    convert = tf.function(
        lambda images: preprocess(preprocessing, images),
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)],
    )
    rng = np.random.default_rng(0)
    for height, width in ((32, 32), (33, 100), (100, 61), (7, 5), (1, 1), (240, 301)):
        images = rng.integers(0, 256, (2, height, width, 3), np.uint8)
        np.testing.assert_allclose(convert(images), preprocessing(images), rtol=0, atol=1e-5)


def test_no_images_give_none():
    nothing = np.zeros((0, 40, 30, 3), np.uint8)
    for resize in ("bicubic", "bilinear"):
        preprocessing = Preprocessing(32, resize=resize)
        assert preprocess(preprocessing, nothing).shape == (0, 32, 32, 3)


@pytest.mark.parametrize("crop_fraction", [0.875, 1.0])
def test_the_resize_of_encoders_from_pytorch_is_the_same_in_every_level(crop_fraction):
    preprocessing = Preprocessing(32, crop_fraction, (0.4, 0.5, 0.6), resize="bilinear")
    convert = tf.function(
        lambda images: preprocess(preprocessing, images),
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)],
    )
    rng = np.random.default_rng(0)
    for height, width in ((32, 32), (33, 100), (7, 5), (1, 1), (240, 301)):
        images = rng.integers(0, 256, (2, height, width, 3), np.uint8)
        np.testing.assert_allclose(convert(images), preprocessing(images), rtol=0, atol=1e-6)

"""The resize in TensorFlow gives Pillow's levels, every one."""

import numpy as np
import pytest
import tensorflow as tf
from pictures import photo
from PIL import Image

from byol_tf.images import pillow

NOISE = np.random.default_rng(0).integers(0, 256, (448, 320, 3), np.uint8)


def by_pillow(image: np.ndarray, size: int) -> np.ndarray:
    height, width, _ = image.shape
    shorter = min(height, width)
    new_height, new_width = size * height // shorter, size * width // shorter
    # In two calls: Pillow 13 begins with the height where an image is much higher than wide.
    wide = Image.fromarray(image).resize((new_width, height), Image.Resampling.BILINEAR)
    return np.asarray(wide.resize((new_width, new_height), Image.Resampling.BILINEAR))


@pytest.mark.parametrize(
    "height, width, size",
    [
        *((32, 32, 256), (300, 411, 256), (600, 513, 256), (256, 300, 256), (120, 333, 64)),
        *((9, 7, 5), (1, 5, 3), (2000, 31, 8), (640, 480, 256), (1000, 1500, 232), (7, 7, 7)),
    ],
)
def test_each_level_is_pillows(height, width, size):
    for image in (photo(height, width), np.resize(NOISE, (height, width, 3))):
        result = pillow.resize_shorter_side(tf.constant(image), size)
        wanted = by_pillow(image, size)
        np.testing.assert_array_equal(result, wanted)


def test_sums_between_two_levels_go_as_pillows():
    """A ratio of 5 to 4 has many; TensorFlow's antialiased resize differs in 2 % of them."""
    wanted = np.asarray(Image.fromarray(NOISE).resize((256, 358), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(pillow.resize_shorter_side(NOISE, 256), wanted)


def test_a_batch_in_a_graph_of_unknown_sizes_is_resized_image_by_image():
    images = np.stack([photo(40, 53, seed) for seed in range(3)])
    graph = tf.function(
        lambda images: pillow.resize_shorter_side(images, 16),
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)],
    )
    wanted = [pillow.resize_shorter_side(image, 16) for image in images]
    np.testing.assert_array_equal(graph(images), tf.stack(wanted))
    assert graph(images[:0]).shape == (0, 16, 21, 3)

"""Crops: their distribution against NumPy and SciPy, their pixels against decode-then-slice."""

import io

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from pictures import encoded, photo
from PIL import Image

from byol_tf.images import random_crop
from byol_tf.images.view_config import VIEW_1, VIEW_2, ViewConfig


def windows_of(count: int, height: int, width: int, view: ViewConfig = VIEW_1, seed=(0, 1)):
    windows = random_crop.random_crop_windows(height, width, tf.constant(seed), [view] * count)
    return windows.numpy().T  # top, left, height, width


def simulated_sides(count: int, height: int, width: int, view: ViewConfig):
    rng = np.random.default_rng(7)
    area = rng.uniform(*view.crop_area, count) * height * width
    aspect = np.exp(rng.uniform(*np.log(view.crop_aspect), count))
    crop_width = np.minimum(np.round(np.sqrt(area * aspect)), width)
    crop_height = np.minimum(np.round(np.sqrt(area / aspect)), height)
    return crop_height, crop_width


@pytest.mark.parametrize("height, width", [(375, 500), (500, 375), (32, 32), (40, 400)])
def test_crops_are_distributed_as_the_formula(height, width):
    _, _, crop_height, crop_width = windows_of(8000, height, width)
    expected_height, expected_width = simulated_sides(8000, height, width, VIEW_1)
    for drawn, simulated in (
        (crop_height, expected_height),
        (crop_width, expected_width),
        (crop_height * crop_width, expected_height * expected_width),
        (crop_width / crop_height, expected_width / expected_height),
    ):
        assert scipy.stats.ks_2samp(drawn, simulated, method="asymp").pvalue > 1e-4


def test_area_is_uniform_and_aspect_log_uniform_where_nothing_is_clamped():
    view = ViewConfig(crop_area=(0.08, 0.5))
    _, _, height, width = windows_of(8000, 3000, 3000, view)
    area = height * width / 3000**2
    assert scipy.stats.kstest(area, "uniform", (0.08, 0.42)).pvalue > 1e-4
    log_aspect = np.log(width / height)
    uniform = (np.log(3 / 4), 2 * np.log(4 / 3))
    assert scipy.stats.kstest(log_aspect, "uniform", uniform).pvalue > 1e-4
    assert abs(log_aspect.mean()) < 5 * np.std(log_aspect) / 8000**0.5
    assert abs(np.corrcoef(area, log_aspect)[0, 1]) < 5 / 8000**0.5


def test_aspect_is_width_over_height():
    view = ViewConfig(crop_area=(0.1, 0.2), crop_aspect=(1.5, 2.0))
    _, _, height, width = windows_of(1000, 2000, 2000, view)
    assert 1.49 < np.min(width / height) < 1.52 and 1.98 < np.max(width / height) < 2.01


def test_corners_are_uniform_over_all_places_inside_the_image():
    top, left, height, width = windows_of(8000, 375, 500, ViewConfig(crop_area=(0.08, 0.3)))
    jitter = np.random.default_rng(0).random((2, 8000))
    vertical = (top + jitter[0]) / (375 - height + 1)
    horizontal = (left + jitter[1]) / (500 - width + 1)
    assert scipy.stats.kstest(vertical, "uniform").pvalue > 1e-4
    assert scipy.stats.kstest(horizontal, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("height, width", [(1, 1), (1, 9), (3, 2), (375, 500)])
def test_windows_lie_inside_the_image(height, width):
    top, left, crop_height, crop_width = windows_of(2000, height, width)
    assert top.min() == 0 and left.min() == 0
    assert crop_height.min() >= 1 and crop_width.min() >= 1
    assert (top + crop_height).max() == height and (left + crop_width).max() == width


def test_a_crop_of_everything_is_the_image():
    view = ViewConfig(crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0))
    image = photo(24, 24)
    crop = random_crop.decode_and_random_crop(
        encoded(Image.fromarray(image), "PNG"), tf.constant([0, 0]), 24, view
    )
    np.testing.assert_allclose(crop, image / 255.0, atol=1e-6)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP"])
@pytest.mark.parametrize("number", range(3))
def test_crops_equal_decode_then_slice_then_resize(image_format, number):
    content = encoded(Image.fromarray(photo(75, 100)), image_format)
    seed = tf.constant([2, number])
    crops = random_crop.decode_and_random_crops(content, seed, 24, [VIEW_1, VIEW_2])

    decoded = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    windows = random_crop.random_crop_windows(75, 100, seed, [VIEW_1, VIEW_2])
    for crop, (top, left, height, width) in zip(crops, windows.numpy(), strict=True):
        window = decoded[top : top + height, left : left + width]
        expected = tf.image.resize(window, [24, 24], "bicubic") / 255.0
        difference = np.abs(crop - tf.clip_by_value(expected, 0.0, 1.0))
        # A JPEG decoder upsamples colour from neighbours, which the window's outer columns lack.
        assert difference.max() < (0.03 if image_format == "JPEG" else 1e-5)
        assert np.median(difference) < 1e-5


@pytest.mark.parametrize(
    "mode, image_format",
    [("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("L", "BMP"), ("P", "GIF")],
)
def test_formats_are_cropped_to_rgb_in_range(mode, image_format):
    content = encoded(Image.fromarray(photo(30, 50)).convert(mode), image_format)
    crop = random_crop.decode_and_random_crop(content, tf.constant([1, 2]), 16, VIEW_1)
    assert crop.shape == (16, 16, 3) and crop.dtype == tf.float32
    assert np.min(crop) >= 0.0 and np.max(crop) <= 1.0
    assert np.ptp(crop) > 0.05


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0 no image"])
def test_bytes_that_are_no_image_are_refused(content):
    with pytest.raises(tf.errors.InvalidArgumentError):
        random_crop.decode_and_random_crop(content, tf.constant([0, 0]), 16, VIEW_1)

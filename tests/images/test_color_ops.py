"""Each operation on `[B, 3, S, S]` against tf.image, SciPy or NumPy."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from byol_tf.images import color_ops

# Corners and edges of the colour cube: greys, primaries, two channels tied.
CORNERS = np.float32(
    [[0, 0, 0], [1, 1, 1], [0.5] * 3, [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 0.7, 0.7]]
)


def images(batch: int = 4, size: int = 24, seed: int = 0) -> np.ndarray:
    """Returns float32 `[batch, size, size, 3]` in [0, 1] with the corners of the colour cube."""
    result = np.random.default_rng(seed).random((batch, size, size, 3), np.float32)
    result[:, 0, : len(CORNERS)] = CORNERS
    return result


def run(operation, pixels, *arguments) -> np.ndarray:
    """Runs an operation on planes and returns pixels."""
    arguments = [tf.constant(a, tf.float32) if np.ndim(a) else a for a in arguments]
    planes = operation(tf.transpose(pixels, [0, 3, 1, 2]), *arguments)
    return tf.transpose(planes, [0, 2, 3, 1]).numpy()


def one_by_one(function, pixels, amounts) -> np.ndarray:
    return np.stack([function(*pair) for pair in zip(pixels, amounts, strict=True)])


def test_flip_mirrors_left_and_right():
    np.testing.assert_array_equal(run(color_ops.flip, images()), images()[:, :, ::-1])


def test_brightness_is_added_and_clipped():
    deltas = np.float32([-0.4, -0.1, 0.0, 0.4])
    result = run(color_ops.adjust_linear, images(), deltas, np.ones(4))
    expected = np.clip(images() + deltas.reshape(4, 1, 1, 1), 0.0, 1.0)
    np.testing.assert_allclose(result, expected, atol=1e-6)
    assert result.min() == 0.0 and result.max() == 1.0


def test_contrast_is_about_the_mean_of_each_channel_as_in_tf_image():
    factors = [0.6, 0.9, 1.0, 1.4]
    pixels = images() * [0.3, 0.6, 1.0]  # Channels with means of their own.
    result = run(color_ops.adjust_linear, np.float32(pixels), np.zeros(4), factors)
    expected = np.clip(one_by_one(tf.image.adjust_contrast, pixels, factors), 0.0, 1.0)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    assert result.min() == 0.0 and result.max() == 1.0


def test_saturation_is_that_of_tf_image():
    factors = [0.0, 0.8, 1.2, 3.0]
    result = run(color_ops.adjust_hsv, images(), factors, np.zeros(4))
    expected = one_by_one(tf.image.adjust_saturation, images(), factors)
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("turns", [(-0.1, -0.03, 0.03, 0.1), (-0.5, 0.0, 1 / 3, 0.5)])
def test_hue_is_that_of_tf_image(turns):
    result = run(color_ops.adjust_hsv, images(), np.ones(4), turns)
    expected = one_by_one(tf.image.adjust_hue, images(), turns)
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_hue_of_grey_is_left_alone_however_dark():
    gray = np.broadcast_to(np.float32([0.0, 1e-13, 1e-7, 0.5]).reshape(1, 2, 2, 1), (1, 2, 2, 3))
    np.testing.assert_array_equal(run(color_ops.adjust_hsv, gray, [1.2], [0.1]), gray)


@pytest.mark.parametrize("order", range(24))
def test_each_order_of_the_jitter_equals_tf_image_in_that_order(order):
    amounts = {0: 0.35, 1: 1.4, 2: 1.2, 3: -0.09}
    adjust = {
        0: tf.image.adjust_brightness,
        1: tf.image.adjust_contrast,
        2: tf.image.adjust_saturation,
        3: tf.image.adjust_hue,
    }
    expected = images()
    for operation in color_ops.ORDERS[order]:
        expected = np.clip(adjust[operation](expected, amounts[operation]), 0.0, 1.0)

    all_amounts = [np.full(4, amounts[operation], np.float32) for operation in range(4)]
    result = run(
        lambda planes: color_ops.color_jitter(planes, tf.fill([4], order), *all_amounts), images()
    )
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_orders_of_the_jitter_differ_in_their_result():
    amounts = [tf.fill([24], amount) for amount in (0.35, 1.4, 1.2, -0.09)]
    same = np.repeat(images(1), 24, axis=0)
    result = run(lambda planes: color_ops.color_jitter(planes, tf.range(24), *amounts), same)
    distinct = {image.round(4).tobytes() for image in result}
    # Saturation and hue commute if adjacent (12 orders), so that 18 of the 24 differ.
    assert len(distinct) == 18


def test_grayscale_is_the_luma_of_tf_image():
    result = run(color_ops.to_grayscale, images())
    expected = np.repeat(tf.image.rgb_to_grayscale(images()), 3, axis=-1)
    np.testing.assert_allclose(result, expected, atol=1e-6)
    np.testing.assert_allclose(result[0, 0, 3:6, 0], [0.2989, 0.5870, 0.1140], atol=1e-6)


@pytest.mark.parametrize("size", [32, 45, 60, 224])
def test_blur_is_that_of_scipy(size):
    sigmas = [0.1, 0.45, 1.0, 2.0]
    pixels = images(4, size)
    result = run(color_ops.gaussian_blur, pixels, sigmas)
    expected = pixels.astype(np.float64)
    for image, sigma in zip(expected, sigmas, strict=True):
        for axis in (0, 1):
            image[:] = ndimage.gaussian_filter1d(
                image, sigma, axis, mode="constant", radius=size // 20
            )
    np.testing.assert_allclose(result, expected, atol=2e-6)


def test_blur_of_an_image_too_small_for_a_kernel_changes_nothing():
    result = run(color_ops.gaussian_blur, images(2, 19), [1.0, 2.0])
    np.testing.assert_array_equal(result, images(2, 19))


def test_solarize_inverts_from_the_threshold_on():
    pixels = np.float32([0.0, 0.25, 0.49999, 0.5, 0.75, 1.0]).reshape(1, 1, 2, 3)
    result = run(color_ops.solarize, pixels, 0.5)
    np.testing.assert_allclose(result.ravel(), [0.0, 0.25, 0.49999, 0.5, 0.25, 0.0])
    result = run(color_ops.solarize, pixels, 0.25)
    np.testing.assert_allclose(result.ravel(), [0.0, 0.75, 0.50001, 0.5, 0.25, 0.0], atol=1e-6)


@pytest.mark.parametrize("chosen", [[True], [False], [True, False, True]])
def test_apply_where_touches_the_chosen_only(chosen):
    pixels = images(len(chosen))
    result = run(
        lambda planes: color_ops.apply_where(tf.constant(chosen), color_ops.flip, planes), pixels
    )
    for image, before, touched in zip(result, pixels, chosen, strict=True):
        np.testing.assert_array_equal(image, before[:, ::-1] if touched else before)

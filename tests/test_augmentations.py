"""Distributions against NumPy and SciPy, crops against decode-then-slice, one seed everywhere."""

import inspect
import io

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from PIL import Image

from byol_tf import augmentations, image_ops
from byol_tf.augmentations import VIEW_1, VIEW_2, TwoViews, ViewConfig
from byol_tf.errors import UserError

NOTHING = dict(flip_prob=0.0, jitter_prob=0.0, grayscale_prob=0.0, blur_prob=0.0, solarize_prob=0.0)


def only(**fields) -> ViewConfig:
    """A view of nothing but what is given."""
    return ViewConfig(**{**NOTHING, **fields})


def images(batch: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((batch, size, size, 3), np.float32)


def photo(height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.BICUBIC))


def encoded(image: Image.Image, image_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def augmented(view: ViewConfig, pixels: np.ndarray, seed=(3, 5)) -> np.ndarray:
    return augmentations.augment(tf.constant(pixels), tf.constant(seed), view).numpy()


def test_views_have_the_numbers_of_the_paper():
    assert (VIEW_1.blur_prob, VIEW_1.solarize_prob) == (1.0, 0.0)
    assert (VIEW_2.blur_prob, VIEW_2.solarize_prob) == (0.1, 0.2)
    for view in (VIEW_1, VIEW_2):
        assert (view.crop_area, view.crop_aspect) == ((0.08, 1.0), (3 / 4, 4 / 3))
        assert (view.flip_prob, view.jitter_prob, view.grayscale_prob) == (0.5, 0.8, 0.2)
        assert (view.brightness, view.contrast, view.saturation, view.hue) == (0.4, 0.4, 0.2, 0.1)
        assert (view.blur_sigma, view.solarize_threshold) == ((0.1, 2.0), 0.5)


@pytest.mark.parametrize(
    "field, value",
    [
        ("flip_prob", 1.5),
        ("blur_prob", -0.1),
        ("hue", 0.6),
        ("crop_area", (0.0, 1.0)),
        ("crop_area", (0.5, 1.1)),
        ("crop_aspect", (2.0, 1.0)),
        ("blur_sigma", (0.0, 2.0)),
        ("solarize_threshold", float("nan")),
    ],
)
def test_wrong_numbers_are_refused_by_name(field, value):
    with pytest.raises(UserError, match=field):
        ViewConfig(**{field: value})


# --- Crops ---


def windows_of(count: int, height: int, width: int, view: ViewConfig = VIEW_1, seed=(0, 1)):
    windows = augmentations.random_crop_windows(height, width, tf.constant(seed), [view] * count)
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
    crop = augmentations.decode_and_random_crop(
        encoded(Image.fromarray(image), "PNG"), tf.constant([0, 0]), 24, view
    )
    np.testing.assert_allclose(crop, image / 255.0, atol=1e-6)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP"])
@pytest.mark.parametrize("number", range(3))
def test_crops_equal_decode_then_slice_then_resize(image_format, number):
    content = encoded(Image.fromarray(photo(75, 100)), image_format)
    seed = tf.constant([2, number])
    crops = augmentations.decode_and_random_crops(content, seed, 24, [VIEW_1, VIEW_2])

    decoded = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    windows = augmentations.random_crop_windows(75, 100, seed, [VIEW_1, VIEW_2])
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
    crop = augmentations.decode_and_random_crop(content, tf.constant([1, 2]), 16, VIEW_1)
    assert crop.shape == (16, 16, 3) and crop.dtype == tf.float32
    assert np.min(crop) >= 0.0 and np.max(crop) <= 1.0
    assert np.ptp(crop) > 0.05


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0 no image"])
def test_bytes_that_are_no_image_are_refused(content):
    with pytest.raises(tf.errors.InvalidArgumentError):
        augmentations.decode_and_random_crop(content, tf.constant([0, 0]), 16, VIEW_1)


# --- Everything but the crop ---


def test_no_operation_leaves_the_images_untouched():
    np.testing.assert_array_equal(augmented(only(), images(5, 24)), images(5, 24))
    np.testing.assert_array_equal(augmented(only(), images(1, 24)), images(1, 24))


@pytest.mark.parametrize(
    "name, operation",
    [
        ("flip", image_ops.flip),
        ("grayscale", image_ops.to_grayscale),
        ("solarize", lambda planes: image_ops.solarize(planes, 0.5)),
        ("blur", lambda planes: image_ops.gaussian_blur(planes, tf.fill([6], 1.3))),
    ],
)
def test_probability_one_applies_to_all(name, operation):
    view = only(**{f"{name}_prob": 1.0}, blur_sigma=(1.3, 1.3))
    planes = operation(tf.transpose(images(6, 40), [0, 3, 1, 2]))
    expected = tf.transpose(planes, [0, 2, 3, 1])
    np.testing.assert_allclose(augmented(view, images(6, 40)), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["flip", "jitter", "grayscale", "blur", "solarize"])
@pytest.mark.parametrize("probability", [0.1, 0.8])
def test_each_operation_applies_as_often_as_its_probability(name, probability):
    count, size = 3000, 20 if name == "blur" else 4
    pixels = images(count, size)
    result = augmented(only(**{f"{name}_prob": probability}, blur_sigma=(1.0, 2.0)), pixels)
    changed = (np.abs(result - pixels).max(axis=(1, 2, 3)) > 1e-4).sum()
    assert scipy.stats.binomtest(int(changed), count, probability).pvalue > 1e-4


def test_operations_are_chosen_independently():
    pixels = images(4000, 4) * 0.4  # Values that solarization at 0.5 leaves.
    view = only(flip_prob=0.5, grayscale_prob=0.5)
    result = augmented(view, pixels)
    gray = np.ptp(result, axis=-1).max(axis=(1, 2)) < 1e-6
    luma = pixels @ np.float32([0.2989, 0.5870, 0.1140])
    first = np.where(gray, luma[:, 0, 0], pixels[:, 0, 0, 0])
    kept = np.abs(result[:, 0, 0, 0] - first) < 1e-5
    table = [[(g & k).sum() for k in (kept, ~kept)] for g in (gray, ~gray)]
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-4


def test_brightness_is_uniform_within_its_reach():
    view = only(jitter_prob=1.0, brightness=0.4, contrast=0.0, saturation=0.0, hue=0.0)
    delta = augmented(view, np.full((4000, 2, 2, 3), 0.5, np.float32))[:, 0, 0, 0] - 0.5
    assert scipy.stats.kstest(delta, "uniform", (-0.4, 0.8)).pvalue > 1e-4


def test_contrast_is_uniform_around_one():
    view = only(jitter_prob=1.0, brightness=0.0, contrast=0.4, saturation=0.0, hue=0.0)
    pixels = np.full((4000, 2, 2, 3), 0.4, np.float32)
    pixels[:, 0] = 0.6
    result = augmented(view, pixels)
    factor = (result[:, 0, 0, 0] - result[:, 1, 0, 0]) / 0.2
    assert scipy.stats.kstest(factor, "uniform", (0.6, 0.8)).pvalue > 1e-4


def test_saturation_and_hue_are_uniform_around_nothing():
    view = only(jitter_prob=1.0, brightness=0.0, contrast=0.0, saturation=0.2, hue=0.1)
    pixels = np.broadcast_to(np.float32([0.3, 0.6, 0.4]), (4000, 2, 2, 3))
    hsv = tf.image.rgb_to_hsv(augmented(view, pixels)).numpy()[:, 0, 0]
    hue, saturation, _ = tf.image.rgb_to_hsv(pixels).numpy()[0, 0, 0]
    assert scipy.stats.kstest(hsv[:, 0] - hue, "uniform", (-0.1, 0.2)).pvalue > 1e-4
    assert scipy.stats.kstest(hsv[:, 1] / saturation, "uniform", (0.8, 0.4)).pvalue > 1e-4
    np.testing.assert_allclose(hsv[:, 2], 0.6, atol=1e-6)


def test_sigma_of_the_blur_is_uniform():
    pixels = np.zeros((3000, 20, 20, 3), np.float32)
    pixels[:, 10, 10] = 1.0
    result = augmented(only(blur_prob=1.0, blur_sigma=(0.5, 2.0)), pixels)
    # Neighbours on a row are exp(-1 / 2 sigma^2) apart.
    sigma = np.sqrt(-0.5 / np.log(result[:, 10, 11, 0] / result[:, 10, 10, 0]))
    assert scipy.stats.kstest(sigma, "uniform", (0.5, 1.5)).pvalue > 1e-4


def test_orders_are_equally_likely_for_equally_likely_draws():
    orders = augmentations.draw_orders(tf.range(2400, dtype=tf.float32) / 2400.0)
    counts = np.bincount(orders, minlength=24)
    assert counts.tolist() == pytest.approx([100] * 24, abs=1)
    assert augmentations.draw_orders(tf.constant([0.0, 1.0 - 2.0**-24])).numpy().tolist() == [0, 23]
    for position in range(4):
        first = np.bincount(np.array(image_ops.ORDERS)[orders, position])
        assert first.tolist() == pytest.approx([600] * 4, abs=4)


# --- Seeds ---


def test_a_seed_decides_the_views_and_zero_is_a_seed():
    seeds = ([0, 0], [0, 1], [7, 0])
    first = [augmented(VIEW_2, images(3, 24), seed) for seed in seeds]
    for seed, views in zip(seeds, first, strict=True):
        np.testing.assert_array_equal(augmented(VIEW_2, images(3, 24), seed), views)
    assert np.abs(first[0] - first[1]).max() > 0.05
    assert np.abs(first[0] - first[2]).max() > 0.05


def test_the_global_seed_of_the_program_does_not_matter():
    tf.random.set_seed(1)
    before = augmented(VIEW_1, images(2, 24))
    tf.random.set_seed(2)
    np.testing.assert_array_equal(before, augmented(VIEW_1, images(2, 24)))


def test_the_batch_may_be_unknown_until_run():
    spec = [tf.TensorSpec([None, 24, 24, 3]), tf.TensorSpec([2], tf.int32)]
    traced = tf.function(
        lambda crops, seed: augmentations.augment(crops, seed, VIEW_1), input_signature=spec
    )
    result = traced(images(3, 24), tf.constant([3, 5]))
    np.testing.assert_allclose(result, augmented(VIEW_1, images(3, 24)), atol=1e-5)


def test_images_of_a_batch_are_augmented_differently():
    result = augmented(VIEW_1, np.repeat(images(1, 24), 16, axis=0))
    assert len({image.tobytes() for image in result}) == 16


@pytest.mark.parametrize("batch, view", [(1, VIEW_1), (6, VIEW_2)])
def test_xla_and_tf_data_give_the_eager_views(batch, view):
    pixels = images(batch, 24)
    compiled = tf.function(
        lambda crops, seed: augmentations.augment(crops, seed, view), jit_compile=True
    )
    for number in range(4):  # Each seed takes other branches.
        seed = tf.constant([4, number])
        eager = augmented(view, pixels, seed)
        np.testing.assert_allclose(compiled(pixels, seed), eager, atol=1e-5)
        dataset = tf.data.Dataset.from_tensors(pixels).map(
            lambda crops, seed=seed: augmentations.augment(crops, seed, view)
        )
        np.testing.assert_allclose(next(iter(dataset)), eager, atol=1e-5)


# --- Both views ---


def test_two_views_are_the_two_augmentations_normalised():
    crops = images(3, 24), images(3, 24, seed=1)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    seed = tf.constant([1, 2])
    views = TwoViews(mean=mean, std=std)(crops, seed=seed)
    seeds = tf.random.split(seed, 2, alg="philox")
    for view, crop, view_seed, config in zip(views, crops, seeds, (VIEW_1, VIEW_2), strict=True):
        expected = (augmented(config, crop, view_seed) - np.float32(mean)) / np.float32(std)
        np.testing.assert_allclose(view, expected, atol=1e-5)


def test_two_views_of_the_same_crop_differ():
    crops = images(2, 24), images(2, 24)
    view_1, view_2 = TwoViews(VIEW_1, VIEW_1)(crops, seed=tf.constant([0, 0]))
    assert np.abs(view_1 - view_2).max() > 0.05


def test_views_of_bytes_equal_views_of_the_crops():
    contents = [encoded(Image.fromarray(photo(60, 80)), name) for name in ("JPEG", "PNG")] * 3
    two_views = TwoViews()

    def make_views(number, content):
        return two_views.from_bytes(content, tf.stack([number, 9]), 24)

    dataset = tf.data.Dataset.from_tensor_slices(contents).enumerate().map(make_views)
    for (number, content), views in zip(enumerate(contents), dataset, strict=True):
        crop_seed, view_seed = tf.random.split(
            tf.constant([number, 9], tf.int64), 2, alg="philox"
        )
        crops = augmentations.decode_and_random_crops(content, crop_seed, 24, (VIEW_1, VIEW_2))
        expected = two_views(tuple(crop[tf.newaxis] for crop in crops), seed=view_seed)
        for view, reference in zip(views, expected, strict=True):
            np.testing.assert_allclose(view, reference[0], atol=1e-4)


def test_views_stay_float32_under_mixed_precision_and_carry_no_gradient():
    policy = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        crops = tf.constant(images(2, 24))
        with tf.GradientTape() as tape:
            tape.watch(crops)
            views = TwoViews()((crops, crops), seed=tf.constant([0, 0]))
    finally:
        keras.mixed_precision.set_global_policy(policy)
    assert all(view.dtype == tf.float32 for view in views)
    assert tape.gradient(views, crops) is None


def test_two_views_survive_serialisation():
    layer = TwoViews(
        only(hue=0.05), VIEW_2, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 2.0), name="views"
    )
    config = layer.get_config()
    arguments = set(inspect.signature(TwoViews.__init__).parameters) - {"self", "kwargs"}
    assert arguments <= set(config)
    clone = keras.layers.deserialize(keras.layers.serialize(layer))
    assert isinstance(clone, TwoViews) and clone.get_config() == config
    assert clone.view_1 == layer.view_1 and clone.view_2 == layer.view_2


@pytest.mark.parametrize("std", [(0.5, 0.5), (0.5, 0.5, 0.0)])
def test_wrong_normalisation_is_refused(std):
    with pytest.raises(UserError, match="std"):
        TwoViews(std=std)

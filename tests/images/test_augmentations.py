"""Probabilities and amounts against their distributions; a seed gives the same views everywhere."""

import dataclasses
import inspect

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from pictures import encoded, photo
from PIL import Image

from byol_tf.errors import UserError
from byol_tf.images import augmentations, bands, color_ops, random_crop
from byol_tf.images.augmentations import TwoViews
from byol_tf.images.view_config import COLOR_FIELDS, VIEW_1, VIEW_2, SmallCrops, ViewConfig

NOTHING = dict(flip_prob=0.0, jitter_prob=0.0, grayscale_prob=0.0, blur_prob=0.0, solarize_prob=0.0)


def only(**fields) -> ViewConfig:
    """Returns a view config with only the given operations."""
    return ViewConfig(**{**NOTHING, **fields})


def images(batch: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((batch, size, size, 3), np.float32)


def augmented(view: ViewConfig, pixels: np.ndarray, seed=(3, 5)) -> np.ndarray:
    return augmentations.augment(tf.constant(pixels), tf.constant(seed), view).numpy()


def test_no_operation_leaves_the_images_untouched():
    np.testing.assert_array_equal(augmented(only(), images(5, 24)), images(5, 24))
    np.testing.assert_array_equal(augmented(only(), images(1, 24)), images(1, 24))


@pytest.mark.parametrize(
    "name, operation",
    [
        ("flip", color_ops.flip),
        ("grayscale", color_ops.to_grayscale),
        ("solarize", lambda planes: color_ops.solarize(planes, 0.5)),
        ("blur", lambda planes: color_ops.gaussian_blur(planes, tf.fill([6], 1.3))),
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


def test_all_draws_of_an_image_are_independent():
    """Returns which operations a seed applies, and the amount of each jitter, one at a time."""
    count = 3000
    pixels = images(count, 20)
    draws = {}
    for name in ("flip", "jitter", "grayscale", "blur", "solarize"):
        result = augmented(only(**{f"{name}_prob": 0.5}, blur_sigma=(1.0, 2.0)), pixels)
        draws[name] = np.abs(result - pixels).max(axis=(1, 2, 3)) > 1e-4
    pixels = np.broadcast_to(np.float32([0.3, 0.6, 0.4]), (count, 2, 2, 3)).copy()
    pixels[:, 0] *= 0.9
    nothing = dict(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    for name in nothing:
        result = augmented(only(jitter_prob=1.0, **{**nothing, name: 0.2}), pixels)
        # Saturation moves the smallest channel, hue the middle one, brightness and contrast any.
        draws[name] = result[:, 0, 0, 2 if name == "hue" else 0]
    correlations = np.corrcoef(np.array(list(draws.values()), np.float64)) - np.eye(len(draws))
    assert np.abs(correlations).max() < 5 / count**0.5


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
        first = np.bincount(np.array(color_ops.ORDERS)[orders, position])
        assert first.tolist() == pytest.approx([600] * 4, abs=4)


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


def test_two_views_are_the_two_augmentations_normalised():
    crops = images(3, 24), images(3, 24, seed=1)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    seed = tf.constant([1, 2])
    views = TwoViews(mean=mean, std=std)(crops, seed=seed)
    seeds = tf.random.split(seed, 2, alg="philox")
    for view, crop, view_seed, config in zip(views, crops, seeds, (VIEW_1, VIEW_2), strict=True):
        expected = (augmented(config, crop, view_seed) - np.float32(mean)) / np.float32(std)
        np.testing.assert_allclose(view, expected, atol=1e-5)


def test_small_crops_are_augmentations_of_their_own_and_leave_the_two_views():
    crops, small = (images(3, 24), images(3, 24, seed=1)), (images(3, 10), images(3, 10))
    seed = tf.constant([1, 2])
    layer = TwoViews(small=SmallCrops(2, 10, only(solarize_prob=1.0, flip_prob=0.5)))
    *views, small_1, small_2 = layer((*crops, *small), seed=seed)
    for view, wanted in zip(views, TwoViews()(crops, seed=seed), strict=True):
        np.testing.assert_array_equal(view, wanted)
    solarized = np.where(small[0] < 0.5, small[0], 1 - small[0])
    expected = (solarized - np.float32(layer.mean)) / np.float32(layer.std)
    for found in (small_1, small_2):
        for image, wanted in zip(found.numpy(), expected, strict=True):
            distances = [np.abs(image - one).max() for one in (wanted, wanted[:, ::-1])]
            assert min(distances) < 1e-5
    assert np.abs(small_1 - small_2).max() > 0.1  # Flips of their own.


def test_two_views_of_the_same_crop_differ():
    crops = images(2, 24), images(2, 24)
    view_1, view_2 = TwoViews(VIEW_1, VIEW_1)(crops, seed=tf.constant([0, 0]))
    assert np.abs(view_1 - view_2).max() > 0.05


def test_views_of_bytes_equal_views_of_the_crops():
    contents = [encoded(Image.fromarray(photo(60, 80)), name) for name in ("JPEG", "PNG")] * 3
    two_views = TwoViews(small=SmallCrops(2, 10))

    def make_views(number, content):
        return two_views.from_bytes(content, tf.stack([number, 9]), 24)

    dataset = tf.data.Dataset.from_tensor_slices(contents).enumerate().map(make_views)
    for (number, content), views in zip(enumerate(contents), dataset, strict=True):
        crop_seed, view_seed = tf.random.split(tf.constant([number, 9], tf.int64), 2, alg="philox")
        crops = two_views.crops(content, crop_seed, 24)
        for crop, wanted in zip(
            crops,
            random_crop.decode_and_random_crops(content, crop_seed, 24, (VIEW_1, VIEW_2)),
            strict=False,
        ):
            np.testing.assert_array_equal(crop, wanted)
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
        only(hue=0.05),
        VIEW_2,
        mean=(0.1, 0.2, 0.3),
        std=(1.0, 1.0, 2.0),
        small=SmallCrops(2, 10, only(hue=0.06)),
        name="views",
    )
    config = layer.get_config()
    arguments = set(inspect.signature(TwoViews.__init__).parameters) - {"self", "kwargs"}
    assert arguments <= set(config)
    clone = keras.layers.deserialize(keras.layers.serialize(layer))
    assert isinstance(clone, TwoViews) and clone.get_config() == config
    assert clone.view_1 == layer.view_1 and clone.view_2 == layer.view_2
    assert clone.small == layer.small


@pytest.mark.parametrize("std", [(0.5, 0.5), (0.5, 0.5, 0.0)])
def test_wrong_normalisation_is_refused(std):
    with pytest.raises(UserError, match="std"):
        TwoViews(std=std)


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("view", [VIEW_1, VIEW_2], ids=["T", "T'"])
def test_each_channel_of_other_images_is_augmented_as_one_of_rgb(channels, view):
    """The operations on RGB have been compared with their definitions above."""
    view = dataclasses.replace(
        view, saturation=0.0, hue=0.0, grayscale_prob=0.0, blur_prob=0.5, solarize_prob=0.5
    )
    pixels = np.random.default_rng(1).random((12, 40, 40, channels), np.float32)
    result = augmented(view, pixels)
    for channel in range(channels):
        rgb = augmented(view, np.repeat(pixels[..., channel, np.newaxis], 3, axis=3))
        np.testing.assert_allclose(result[..., channel], rgb[..., 1], atol=1e-5)


def test_views_of_other_images_from_a_file_are_those_of_its_crops():
    pixels = np.random.default_rng(2).integers(0, 2**16, (50, 60, 5), np.uint16)
    file, seed = bands.encode_png(pixels), tf.constant([7, 8], tf.int64)
    fields = dict.fromkeys(COLOR_FIELDS, 0.0)
    mean, std = np.linspace(0.3, 0.5, 5), np.linspace(0.2, 0.3, 5)
    two_views = TwoViews(fields, fields, mean.tolist(), std.tolist(), bit_depth=16)
    views = two_views.from_bytes(file, seed, 24)
    crop_seed, view_seed = tf.unstack(tf.random.split(seed, 2, alg="philox"))
    crops = random_crop.decode_and_random_crops(
        file, crop_seed, 24, (two_views.view_1, two_views.view_2), 5, 16
    )
    assert 0.4 < np.mean(crops) < 0.6
    expected = two_views([crop[tf.newaxis] for crop in crops], seed=view_seed)
    for view, other in zip(views, expected, strict=True):
        np.testing.assert_allclose(view, other[0], atol=1e-4)
    with pytest.raises(UserError, match="saturation, hue, grayscale_prob, which need RGB"):
        TwoViews(mean=mean.tolist(), std=std.tolist())

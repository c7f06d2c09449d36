"""The rotation probe against scikit-learn, on images and on drawn representations."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.linear_model import RidgeClassifier

from byol_tf.errors import UserError
from byol_tf.evaluation import label_free, rotation
from byol_tf.evaluation.features import Features
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.models.collapse import spread
from byol_tf.sources import open_source

PREPROCESSING = Preprocessing(8, 1.0)


def pixels(images, training=False):
    return tf.reshape(images, [-1, 8 * 8 * 3])


def constant(images, training=False):
    return tf.ones([tf.shape(images)[0], 16]) * 0.7


def mean_colour(images, training=False):
    return tf.reduce_mean(images, axis=[1, 2])


def as_features(representations, first=0):
    count = len(representations)
    keys = np.array([b"%d" % number for number in range(first, first + count)])
    return Features(representations.astype(np.float32), np.full(count, -1, np.int32), keys)


def turns(count, visible, std=0.5, seed=0):
    """`[count, 4, 128]` near a common point, `std` apart; turns show by `visible` of an image."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 4, 128)) + visible * np.eye(128)[1:5] * 128**0.5
    return np.eye(128)[0] * (1 - std**2) ** 0.5 + std / 128**0.5 * x


@pytest.fixture(scope="module")
def landscapes(tmp_path_factory):
    """Noisy pictures with a bright sky."""
    folder = tmp_path_factory.mktemp("landscapes")
    rng = np.random.default_rng(0)
    for number in range(60):
        picture = rng.integers(0, 160, (8, 8, 3))
        picture[:3] += 90
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{number:02}.png")
    return open_source(str(folder))


def test_it_learns_rotation_where_it_shows_and_is_at_chance_where_it_does_not(landscapes):
    of_pixels = rotation.accuracy(rotation.encode_turns(pixels, landscapes, PREPROCESSING))
    assert of_pixels.low > 0.8 and of_pixels.value <= of_pixels.high <= 1
    of_colour = rotation.accuracy(rotation.encode_turns(mean_colour, landscapes, PREPROCESSING))
    assert of_colour.low <= 0.25 <= of_colour.high
    of_a_point = rotation.accuracy(rotation.encode_turns(constant, landscapes, PREPROCESSING))
    assert of_a_point == rotation.Estimate(0.25, 0.25, 0.25)


def test_turns_are_quarter_turns_of_the_same_image(landscapes):
    encoded = rotation.encode_turns(pixels, landscapes, PREPROCESSING, limit=10)
    images = encoded.representations.reshape(10, 4, 8, 8, 3)
    for turn in range(4):
        assert np.array_equal(images[:, turn], np.rot90(images[:, 0], turn, axes=(1, 2)))
    assert list(encoded.keys) == [b"%02d.png" % number for number in range(0, 60, 6)]


def test_the_probe_is_a_ridge_classifier_fitted_to_the_other_images():
    x = turns(43, 0.2)
    told = rotation.hits(x)
    assert 0.3 < told.mean() < 0.9
    fold = np.arange(43) % 5
    for test in range(5):
        fit = x[fold != test].reshape(-1, 128)
        alpha = 0.01 * fit.var(axis=0).mean() * len(fit)
        probe = RidgeClassifier(alpha=alpha).fit(fit, np.tile(np.arange(4), len(fit) // 4))
        predicted = probe.predict(x[fold == test].reshape(-1, 128)).reshape(-1, 4)
        assert np.array_equal(told[fold == test], predicted == np.arange(4))
    assert np.array_equal(rotation.hits(1e-3 * x), told)


def test_a_better_encoder_with_worse_alignment_has_no_loss():
    """The figures of a real pair: alignment said that the encoder of 20 epochs was worse."""
    figures = {}
    encoders = {"3 epochs": (0.36, 0.25, 0.15), "20 epochs": (0.52, 0.295, 0.25)}
    for name, (std, noise, visible) in encoders.items():
        x = turns(1000, visible, std)
        rng = np.random.default_rng(1)
        crops = [x[:, 0] + noise / 128**0.5 * rng.normal(size=(1000, 128)) for _ in range(2)]
        figures[name] = label_free.alignment(*crops), float(spread(x[:, 0]))
    assert figures["3 epochs"] == pytest.approx((0.126, 0.35), abs=0.02)
    assert figures["20 epochs"] == pytest.approx((0.171, 0.52), abs=0.02)
    short, long = (as_features(turns(1000, visible, std)) for std, _, visible in encoders.values())
    assert rotation.loss(long, short).high < 0
    assert rotation.loss(short, long).low > 0.01


def test_an_equal_encoder_is_rarely_called_worse():
    """In at most the 2.5 % above a 95 % interval, give or take the chance of 200 draws."""
    pairs = ((turns(40, 0.2, seed=2 * n), turns(40, 0.2, seed=2 * n + 1)) for n in range(200))
    called_worse = sum(rotation.loss(*map(as_features, pair)).low > 0 for pair in pairs)
    assert called_worse <= 15


def test_what_both_find_hard_does_not_widen_the_interval():
    x = turns(200, 0.2)
    nearly_the_same = x + 0.01 * turns(200, 0.2, seed=1)
    paired = rotation.loss(as_features(nearly_the_same), as_features(x))
    single = rotation.accuracy(as_features(x))
    assert paired.high - paired.low < 0.5 * (single.high - single.low)
    assert rotation.loss(as_features(x), as_features(x)) == rotation.Estimate(0, 0, 0)


def test_few_images_have_no_interval_and_one_is_refused():
    bad, good = as_features(turns(17, 0.0)), as_features(turns(17, 1.0))
    loss = rotation.loss(bad, good)
    assert loss.value > 0.3 and (loss.low, loss.high) == (-1, 1)
    assert (rotation.accuracy(good).low, rotation.accuracy(good).high) == (0, 1)
    with pytest.raises(UserError, match="two or more"):
        rotation.accuracy(as_features(turns(1, 1.0)))


def test_only_images_that_both_encoders_have_are_compared():
    x = turns(60, 0.2)
    shifted = dataclasses.replace(as_features(x), keys=as_features(x, first=10).keys)
    expected = rotation.hits(x[10:]).mean() - rotation.hits(x[:50]).mean()
    assert rotation.loss(shifted, as_features(x)).value == pytest.approx(expected)

"""Label-free measures against a NumPy loop over pairs, and on real images."""

import itertools
import math
import shutil

import numpy as np
import pytest
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.evaluation import label_free
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.sources import open_source

PREPROCESSING = Preprocessing(32, 1.0)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def normal(count, dimensions, seed=0):
    return np.random.default_rng(seed).normal(loc=0.3, size=(count, dimensions))


def pixels(images, training=False):
    return tf.reshape(images, [-1, 32 * 32 * 3])


def constant(images, training=False):
    return tf.ones([tf.shape(images)[0], 128]) * 0.7


def test_alignment_is_the_mean_squared_distance_of_the_paper():
    x, y = normal(40, 7), normal(40, 7, seed=1)
    expected = np.square(unit(x) - unit(y)).sum(axis=1).mean()
    assert label_free.alignment(x, y) == pytest.approx(expected, rel=1e-5)
    assert label_free.alignment(x, 3 * x) == pytest.approx(0, abs=1e-6)
    assert label_free.alignment(x, -x) == pytest.approx(4)


@pytest.mark.parametrize("count", [2, 37, 256, 600])
def test_uniformity_is_the_papers_over_distinct_pairs(count):
    x = normal(count, 5)
    distances = [np.square(a - b).sum() for a, b in itertools.combinations(unit(x), 2)]
    expected = math.log(np.exp(-2 * np.array(distances)).mean())
    assert label_free.uniformity(x) == pytest.approx(expected, abs=1e-5)


def test_uniformity_has_its_limits():
    assert label_free.uniformity(np.tile(normal(1, 64), (500, 1))) == pytest.approx(0, abs=1e-5)
    assert label_free.uniformity(np.zeros((500, 64))) == 0
    assert label_free.uniformity(np.eye(300)) == pytest.approx(-4)
    assert label_free.uniformity(np.array([[1.0, 0.0], [-2.0, 0.0]])) == pytest.approx(-8)
    # On an even sphere of D dimensions ‖x - y‖² is about normal, mean 2 and variance 4 / D.
    sphere = np.random.default_rng(0).normal(size=(2000, 512))
    assert label_free.uniformity(sphere) == pytest.approx(-4 + 0.5 * 2**2 * 4 / 512, abs=5e-3)


def test_one_image_has_no_uniformity():
    with pytest.raises(UserError, match="two or more"):
        label_free.uniformity(np.ones((1, 4)))


def test_a_collapsed_encoder_shows_on_real_images(images_dir):
    source = open_source(str(images_dir / "test"))
    result = label_free.label_free_measures(constant, source, PREPROCESSING, limit=60)
    assert result.num_images == 60 and result.representation_rank == pytest.approx(1)
    for measure in (result.alignment, result.uniformity, result.representation_std):
        assert measure == pytest.approx(0, abs=1e-5)


def test_views_are_two_crops_and_the_rest_is_of_centre_crops(images_dir):
    source = open_source(str(images_dir / "test"))
    result = label_free.label_free_measures(pixels, source, PREPROCESSING, seed=1, limit=50)
    files = [images_dir / "test" / name.decode() for name in _names(images_dir, 50)]
    images = [tf.io.decode_jpeg(file.read_bytes()).numpy() for file in files]
    x = PREPROCESSING.normalize(np.stack(images) / 255.0).numpy().reshape(50, -1)
    std = unit(x).std(axis=0).mean() * 3072**0.5
    assert result.representation_std == pytest.approx(std, rel=0.01)
    assert result.uniformity == pytest.approx(label_free.uniformity(x), abs=0.01)
    assert result.num_images == 50
    # Crops of one image are closer to each other than two images, and not the same.
    assert 0.1 < result.alignment < label_free.alignment(x[:25], x[25:])
    again = label_free.label_free_measures(pixels, source, PREPROCESSING, seed=1, limit=50)
    assert again == result
    other = label_free.label_free_measures(pixels, source, PREPROCESSING, seed=2, limit=50)
    assert other.alignment != result.alignment and other.uniformity == result.uniformity


def test_a_folder_without_labels_and_a_damaged_image_are_no_hindrance(images_dir, tmp_path):
    for file in sorted((images_dir / "test" / "cat").glob("*.jpg"))[:8]:
        shutil.copy(file, tmp_path)
    damaged = tmp_path / "0003.jpg"
    damaged.write_bytes(damaged.read_bytes()[:-60])
    source = open_source(str(tmp_path))
    result = label_free.label_free_measures(pixels, source, PREPROCESSING)
    assert source.class_names is None and result.num_images == 7
    assert 1 < result.representation_rank <= 6


def _names(images_dir, count):
    """Evenly spaced over the sorted paths."""
    folder = images_dir / "test"
    names = sorted(str(file.relative_to(folder)).encode() for file in folder.glob("*/*.jpg"))
    return names[:: len(names) // count]

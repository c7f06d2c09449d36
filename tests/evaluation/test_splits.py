import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from sklearn.neighbors import KNeighborsClassifier

from byol_tf.configs import evaluation
from byol_tf.errors import UserError
from byol_tf.evaluation import knn, linear
from byol_tf.evaluation.cache import FeatureCache
from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder
from byol_tf.evaluation.splits import Splits
from byol_tf.images.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(32, 1.0, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
CLASSES = ("airplane", "bird", "frog")


def folder(path, images, numbers, classes=CLASSES):
    for name in classes:
        (path / name).mkdir(parents=True)
        for number in numbers:
            file = f"{number:04d}.jpg"
            (path / name / file).write_bytes((images / name / file).read_bytes())
    return str(path)


class Pixels:
    """An encoder that counts the images it sees."""

    def __init__(self):
        self.seen = tf.Variable(0)

    def __call__(self, images, training=False):
        self.seen.assign_add(tf.shape(images)[0])
        return tf.reshape(images, [-1, 32 * 32 * 3])


@pytest.fixture
def pixels():
    return EvaluatedEncoder("pixels", Pixels(), PREPROCESSING, "of-the-test")


@pytest.fixture
def data(tmp_path, images_dir):
    train = folder(tmp_path / "train", images_dir / "train", range(20))
    return train, folder(tmp_path / "test", images_dir / "test", range(8))


def read(source_dir, numbers):
    """32x32 files need no crop and no resize: what TensorFlow decodes, normalised by hand."""
    x, y = [], []
    for label, name in enumerate(CLASSES):
        for number in numbers:
            content = (source_dir / name / f"{number:04d}.jpg").read_bytes()
            x.append((tf.io.decode_jpeg(content).numpy().ravel() / 255 - 0.5) / 0.25)
            y.append(label)
    return np.array(x), np.array(y)


def test_knn_of_pixels_equals_scikit_learns_on_the_files(data, pixels, images_dir):
    x, y = read(images_dir / "train", range(20))
    test_x, test_y = read(images_dir / "test", range(8))
    reference = KNeighborsClassifier(
        60, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    )
    expected = reference.fit(x, y).score(test_x, test_y)
    result = knn.evaluate(pixels, Splits(*data), evaluation.get_config().knn)
    assert result.top_1 == pytest.approx(expected) and result.num_test == 24
    assert result.cells() == {"kNN top-1, %": f"{100 * expected:.1f}"}


def test_views_are_different_crops_of_the_training_images_in_their_order(data, pixels):
    train, test, views = Splits(*data, seed=3).features(pixels, num_views=2)
    assert len(train.keys) == 60 and len(test.keys) == 24
    for view in views:
        assert view.keys.tolist() == train.keys.tolist()
        assert view.labels.tolist() == train.labels.tolist()
        correlation = np.mean(
            [
                np.corrcoef(a, b)[0, 1]
                for a, b in zip(view.representations, train.representations, strict=True)
            ]
        )
        assert 0.1 < correlation < 0.9
    assert not np.allclose(views[0].representations, views[1].representations)
    again = Splits(*data, seed=3).features(pixels, num_views=1)[2]
    np.testing.assert_array_equal(again[0].representations, views[0].representations)


def test_linear_evaluation_without_views_trains_on_centre_crops(data, pixels):
    config = evaluation.get_config().linear
    config.views = 0
    result = linear.evaluate(pixels, Splits(*data), config)
    assert result.num_test == 24 and result.batch_size == 60
    assert int(pixels.encode.seen) == 84


def test_a_jpeg_cut_off_near_its_end_is_left_out_of_all_passes(data, pixels, tmp_path):
    file = tmp_path / "train" / "bird" / "0004.jpg"
    file.write_bytes(file.read_bytes()[:-60])
    train, _, views = Splits(*data).features(pixels, num_views=1)
    assert len(train.keys) == 59 and b"bird/0004.jpg" not in train.keys
    assert views[0].keys.tolist() == train.keys.tolist()


def test_all_protocols_cost_one_pass_over_the_images(data, pixels, tmp_path):
    config = evaluation.get_config()
    config.linear.views = 1
    cache = FeatureCache(str(tmp_path / "features"))
    first = [
        protocol.evaluate(pixels, Splits(*data, cache=cache), config[name])
        for name, protocol in (("knn", knn), ("linear", linear))
    ]
    assert int(pixels.encode.seen) == 60 + 24 + 60  # train, test, one view
    again = linear.evaluate(pixels, Splits(*data, cache=FeatureCache(cache.folder)), config.linear)
    assert int(pixels.encode.seen) == 144 and again == first[1]


def test_cached_features_are_those_that_were_extracted(data, pixels, tmp_path):
    plain = Splits(*data, seed=1).features(pixels, 1)
    cache = FeatureCache(str(tmp_path / "features"))
    for _ in range(2):
        train, test, views = Splits(*data, seed=1, cache=cache).features(pixels, 1)
        for actual, wanted in zip(
            (train, test, *views), (plain[0], plain[1], *plain[2]), strict=True
        ):
            for column in ("representations", "labels", "keys"):
                np.testing.assert_array_equal(getattr(actual, column), getattr(wanted, column))
    assert not list(tmp_path.glob("features/*.tmp"))


@pytest.mark.parametrize("change", ["weights", "preprocessing", "image", "seed"])
def test_what_changes_features_makes_new_ones(data, pixels, tmp_path, change):
    cache = FeatureCache(str(tmp_path / "features"))
    Splits(*data, cache=cache).features(pixels, 1)
    splits, other = Splits(*data, cache=cache), pixels
    expected = {"weights": 144, "preprocessing": 144, "image": 120, "seed": 60}[change]
    if change == "weights":
        other = dataclasses.replace(pixels, fingerprint="another")
    elif change == "preprocessing":
        other = dataclasses.replace(pixels, preprocessing=Preprocessing(32, 0.875))
    elif change == "image":
        content = (tmp_path / "train" / "frog" / "0001.jpg").read_bytes()
        (tmp_path / "train" / "frog" / "0002.jpg").write_bytes(content)
    else:
        splits = Splits(*data, seed=5, cache=cache)
    before = int(pixels.encode.seen)
    splits.features(other, 1)
    assert int(pixels.encode.seen) - before == expected


def test_unlabelled_images_are_refused(data, images_dir, tmp_path):
    (tmp_path / "flat").mkdir()
    content = (images_dir / "test" / "bird" / "0000.jpg").read_bytes()
    (tmp_path / "flat" / "0.jpg").write_bytes(content)
    with pytest.raises(UserError, match="flat' has no labels, and accuracy needs them"):
        _ = Splits(data[0], str(tmp_path / "flat")).sources


def test_sets_with_different_classes_are_refused(data, images_dir, tmp_path):
    other = folder(tmp_path / "other", images_dir / "test", range(2), ("airplane", "ship"))
    with pytest.raises(UserError, match=r"differing: \['bird', 'frog', 'ship'\]"):
        _ = Splits(data[0], other).sources


@pytest.mark.parametrize(
    "protocol, values, sentence",
    [
        (knn, {"k": 0}, "knn.k is 0"),
        (knn, {"temperature": 0.0}, "knn.temperature 0.0"),
        (linear, {"views": -1}, "linear.views is -1; give 0 or more"),
    ],
)
def test_a_value_out_of_range_is_named(data, pixels, protocol, values, sentence):
    config = evaluation.get_config()[protocol.__name__.rpartition(".")[2]]
    config.update(values)
    with pytest.raises(UserError, match=sentence):
        protocol.evaluate(pixels, Splits(*data), config)
    assert int(pixels.encode.seen) == 0


def test_splits_describe_the_sets_they_have_opened(data):
    splits = Splits(*data)
    assert splits.described() == {"train": {"source": data[0]}, "test": {"source": data[1]}}
    assert splits.class_names == splits.sources[0].class_names
    assert splits.described()["train"] == {"source": data[0], "examples": 60}

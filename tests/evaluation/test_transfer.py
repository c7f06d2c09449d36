import dataclasses

import ml_collections
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from byol_tf.errors import UserError
from byol_tf.evaluation import transfer
from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder
from byol_tf.evaluation.features import Features
from byol_tf.evaluation.splits import Splits, validation_split
from byol_tf.images.preprocessing import Preprocessing

SEED = 3


def section(**changes):
    config = ml_collections.ConfigDict()
    config.metric = "auto"
    config.min_lambda = 1e-3
    config.max_lambda = 1e5
    config.num_lambdas = 9
    config.validation_fraction = 0.25
    config.max_iterations = 2000
    config.update(changes)
    return config


@dataclasses.dataclass
class FeatureSplits:
    """Splits whose features are given."""

    train_features: Features
    test_features: Features
    class_names: tuple[str, ...] = ("ant", "bee", "cat", "dog", "eel")
    train: str = "photos/train"
    test: str = "photos/test"
    seed: int = SEED

    def features(self, pretrained, num_views):
        assert num_views == 0, "the protocol sees centre crops only"
        return self.train_features, self.test_features, []


def features(representations, labels):
    labels = np.asarray(labels, np.int32)
    keys = np.array([b"%d" % i for i in range(len(labels))], object)
    return Features(np.asarray(representations, np.float32), labels, keys)


def clusters(count, seed, shares=(0.2,) * 5, dimensions=40):
    """Noisy clusters, on which too weak a regularisation overfits."""
    rng = np.random.default_rng(seed)
    centres = 0.5 * np.random.default_rng(99).normal(size=(len(shares), dimensions))
    labels = rng.choice(len(shares), p=shares, size=count)
    return features(centres[labels] + rng.normal(size=(count, dimensions)), labels)


@pytest.fixture(scope="module")
def splits():
    return FeatureSplits(clusters(240, seed=0), clusters(400, seed=1))


def evaluate(splits, **changes):
    return transfer.evaluate(None, splits, section(**changes))


def scikit_learn(strength, x, y):
    """Fits the same objective from zero on unscaled representations."""
    return LogisticRegression(C=1 / strength, tol=1e-8, max_iter=10_000).fit(x.astype(float), y)


def test_lambda_is_the_best_on_held_out_examples_and_the_refit_sees_all(splits):
    result = evaluate(splits)
    x, y = splits.train_features.representations, splits.train_features.labels
    kept, held_out = validation_split(y, 0.25, SEED)
    expected = {
        strength: scikit_learn(strength, x[kept], y[kept]).score(x[held_out], y[held_out])
        for strength in np.geomspace(1e5, 1e-3, 9)
    }
    assert list(result.validation_by_lambda) == pytest.approx(list(expected))
    # One of the 60 held-out examples may lie on the border.
    np.testing.assert_allclose(
        list(result.validation_by_lambda.values()), list(expected.values()), atol=1 / 60 + 1e-9
    )
    best = max(result.validation_by_lambda.values())
    winners = [key for key, value in result.validation_by_lambda.items() if value == best]
    assert result.chosen_lambda == winners[0]
    assert 1e-3 < result.chosen_lambda < 1e5, "the case must have an optimum inside"
    assert (result.not_converged, result.refit_converged) == (0, True)

    test = splits.test_features
    refit = scikit_learn(result.chosen_lambda, x, y)
    hits = (refit.predict(test.representations) == test.labels).sum()
    assert result.value == pytest.approx(hits / 400, abs=1.5 / 400)
    on_kept = scikit_learn(result.chosen_lambda, x[kept], y[kept])
    assert abs(result.value - on_kept.score(test.representations, test.labels)) > 1.5 / 400
    assert (result.num_train, result.num_test) == (240, 400)


def test_of_equally_good_lambdas_the_strongest_is_taken():
    x = np.repeat(np.eye(2), 20, axis=0)
    separable = features(x, [0] * 20 + [1] * 20)
    result = evaluate(FeatureSplits(separable, separable))
    assert result.value == 1
    perfect = [key for key, value in result.validation_by_lambda.items() if value == 1]
    assert len(perfect) > 2
    assert result.chosen_lambda == max(perfect)


def test_the_test_set_decides_nothing(splits):
    rng = np.random.default_rng(0)
    shuffled = dataclasses.replace(
        splits.test_features, labels=rng.permutation(splits.test_features.labels)
    )
    result, of_shuffled = (
        evaluate(dataclasses.replace(splits, test_features=test))
        for test in (splits.test_features, shuffled)
    )
    assert of_shuffled.validation_by_lambda == result.validation_by_lambda
    assert of_shuffled.chosen_lambda == result.chosen_lambda
    assert result.value > 0.6
    assert abs(of_shuffled.value - 0.2) < 0.08


def test_shuffled_training_labels_are_worth_chance(splits):
    labels = np.random.default_rng(0).permutation(splits.train_features.labels)
    shuffled = dataclasses.replace(splits.train_features, labels=labels)
    result = evaluate(dataclasses.replace(splits, train_features=shuffled))
    assert abs(result.value - 0.2) < 0.08


def test_mean_per_class_chooses_and_scores_where_it_is_asked_for():
    shares = (0.8, 0.1, 0.05, 0.03, 0.02)
    splits = FeatureSplits(clusters(400, 0, shares), clusters(500, 1, shares))
    result = evaluate(splits, metric="mean_per_class", min_lambda=1)
    x, y = splits.train_features.representations, splits.train_features.labels
    test = splits.test_features
    refit = scikit_learn(result.chosen_lambda, x, y).predict(test.representations)
    # One example of the rarest class, of seven, may lie on the border.
    expected = balanced_accuracy_score(test.labels, refit)
    assert result.value == pytest.approx(expected, abs=1 / 7 / 5 + 1e-9)
    assert abs((refit == test.labels).mean() - expected) > 0.05
    assert result.interval is None
    assert list(result.cells()) == ["transfer mean per class, %"]


def test_the_cell_says_the_wilson_interval(splits):
    result = evaluate(splits)
    assert result.metric == "top_1"
    p, n, z = result.value, 400, 1.959964
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    assert result.interval == pytest.approx((centre - half, centre + half))
    text = f"{100 * p:.1f} [{100 * (centre - half):.1f}, {100 * (centre + half):.1f}]"
    assert result.cells() == {"transfer top-1, % [95 % interval]": text}


def test_lambdas_that_do_not_converge_are_counted(splits):
    result = evaluate(splits, max_iterations=20)
    assert 0 < result.not_converged < 9
    assert len(result.validation_by_lambda) == 9


def test_photos_are_told_apart_by_their_pixels(images_dir):
    def encoder(images, training=False):
        return tf.reshape(images, [-1, 4 * 4 * 3])

    pixels = EvaluatedEncoder("raw pixels", encoder, Preprocessing(4, crop_fraction=1), "0")
    splits = Splits(str(images_dir / "train"), str(images_dir / "test"))
    result = transfer.evaluate(pixels, splits, section(min_lambda=100, num_lambdas=3))
    assert (result.num_train, result.num_test) == (2500, 500)
    assert result.interval[0] > 0.2, "chance is 0.1"
    assert result.value < 0.6


def voc_tree(root, split, presence):
    """Grey squares with more red, green and blue if cat, dog and person are present.

    `presence`: rows of 1 there, 0 not, -1 only as difficult, which is seen as well.
    """
    rng = np.random.default_rng(len(presence))
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("cat\ndog\nperson\n")
    names = [f"{split}{i}" for i in range(len(presence))]
    for name, row in zip(names, presence, strict=True):
        colour = 90 + 60 * np.abs(row) + rng.normal(scale=15, size=(16, 16, 3))
        Image.fromarray(colour.clip(0, 255).astype(np.uint8)).save(
            root / "JPEGImages" / f"{name}.jpg", quality=95
        )
        objects = "".join(
            f"<object><name>{label}</name><difficult>{int(value < 0)}</difficult><bndbox>"
            "<xmin>1</xmin><ymin>1</ymin><xmax>16</xmax><ymax>16</ymax></bndbox></object>"
            for label, value in zip(("cat", "dog", "person"), row, strict=True)
            if value
        )
        (root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><size><width>16</width><height>16</height></size>{objects}</annotation>"
        )
    # Not the order of the files' names.
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names[::-1]))


def mean_colour(images, training=False):
    return tf.reduce_mean(images, axis=[1, 2])


def voc_result(root, **changes):
    pretrained = EvaluatedEncoder("colour", mean_colour, Preprocessing(16, crop_fraction=1), "0")
    splits = Splits(f"voc:{root}:trainval", f"voc:{root}:test")
    return transfer.evaluate(pretrained, splits, section(num_lambdas=5, **changes))


def random_presence(count, seed):
    return np.random.default_rng(seed).choice([0, 1, -1], p=[0.6, 0.3, 0.1], size=(count, 3))


def test_voc_images_of_several_classes_are_ranked_by_each(tmp_path):
    voc_tree(tmp_path, "trainval", random_presence(60, 0))
    voc_tree(tmp_path, "test", random_presence(40, 1))
    for first in ("trainval59", "test39"):  # Is left out, so the others move up.
        (tmp_path / "JPEGImages" / f"{first}.jpg").write_bytes(b"no photo")
    result = voc_result(tmp_path)
    assert (result.metric, result.num_train, result.num_test) == ("voc07_map", 59, 39)
    # Difficult cats look like cats and would rank among them if they were scored.
    assert result.value == 1
    assert result.interval is None
    assert result.cells() == {"transfer VOC07 mAP, %": "100.0"}


def test_voc_annotations_of_other_images_are_worth_chance(tmp_path):
    voc_tree(tmp_path, "trainval", random_presence(60, 0))
    voc_tree(tmp_path, "test", random_presence(40, 1))
    path = tmp_path / "Annotations"
    contents = [(path / f"test{i}.xml").read_text() for i in range(40)]
    for i in range(40):
        (path / f"test{i}.xml").write_text(contents[(i + 7) % 40])
    assert voc_result(tmp_path).value < 0.7


def test_voc_classes_are_held_out_in_proportion(tmp_path):
    presence = np.zeros((80, 3), int)
    presence[:, 2] = 1  # Persons are in all but two images.
    presence[:4, 0] = 1
    presence[4:12, 1] = 1
    presence[-2:, 2] = 0
    strata = transfer._rarest_classes(presence)
    kept, held_out = validation_split(strata, 0.25, 0)
    np.testing.assert_array_equal(presence[held_out, :2].sum(axis=0), [1, 2])


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        ([0] * 8 + [1] * 8 + [3], "'dog' has 1 training example"),
        ([1] * 16, "one class, 'bee'"),
        ([0, 0, 1, 1, -1], "1 of the 5 training examples have no label"),
        ([0, 0, 1], "'bee' has 1 training example"),
    ],
)
def test_training_labels_that_cannot_be_used_are_named(labels, complaint):
    train = features(np.random.default_rng(0).normal(size=(len(labels), 3)), labels)
    with pytest.raises(UserError, match=complaint):
        evaluate(FeatureSplits(train, features(np.eye(3)[:1], labels[:1])))


def test_too_few_examples_to_hold_any_out_are_refused(splits):
    train = features(np.eye(4), [0, 0, 1, 1])
    with pytest.raises(UserError, match="4 examples, too few.*validation_fraction"):
        evaluate(FeatureSplits(train, train), validation_fraction=0.1)


def test_a_test_class_without_training_examples_is_named(splits):
    train = splits.train_features.select(splits.train_features.labels != 2)
    with pytest.raises(UserError, match=r"without a training example: \['cat'\]"):
        evaluate(dataclasses.replace(splits, train_features=train))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"metric": "top_5"}, "'top_5'; give auto, top_1, mean_per_class, voc07_map"),
        ({"metric": "voc07_map"}, "voc07_map does not fit the data 'photos/train'"),
        ({"min_lambda": 0.0}, "0 < min_lambda"),
        ({"num_lambdas": 0}, "0 lambdas"),
        ({"validation_fraction": 0.6}, "validation_fraction is 0.6"),
        ({"max_iterations": 0}, "max_iterations 0"),
    ],
)
def test_a_config_that_cannot_be_is_named_before_anything_is_encoded(splits, changes, complaint):
    def features(*_):
        raise AssertionError("encoded")

    splits = dataclasses.replace(splits)
    splits.features = features
    with pytest.raises(UserError, match=complaint):
        evaluate(splits, **changes)


def test_voc_and_labels_do_not_mix(splits):
    with pytest.raises(UserError, match="voc07_map does not fit"):
        evaluate(dataclasses.replace(splits, test="voc:VOC2007:test"))
    both = dataclasses.replace(splits, train="voc:VOC2007:train", test="voc:VOC2007:test")
    with pytest.raises(UserError, match="top_1 does not fit"):
        evaluate(both, metric="top_1")


def test_a_voc_class_that_the_test_set_lacks_is_named(tmp_path):
    presence = random_presence(40, 1)
    voc_tree(tmp_path, "trainval", presence)
    presence[:, 1] = np.minimum(
        presence[:, 1], 0
    )  # Difficult ones alone are not enough for a test.
    voc_tree(tmp_path, "test", presence)
    with pytest.raises(UserError, match=r":test' has an object that is not difficult of \['dog'\]"):
        voc_result(tmp_path)


def test_a_voc_class_that_cannot_be_learnt_is_named(tmp_path):
    presence = random_presence(40, 1)
    voc_tree(tmp_path, "test", presence)
    presence[:, 2] = 1
    voc_tree(tmp_path, "trainval", presence)
    with pytest.raises(UserError, match="30 images left for training, 30 have the class 'person'"):
        voc_result(tmp_path)

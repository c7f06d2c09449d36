import math

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

from byol_tf.errors import UserError
from byol_tf.evaluation import accuracy, linear, splits
from byol_tf.evaluation.features import Features


def features(representations, labels):
    labels = np.asarray(labels, np.int32)
    keys = np.array([str(i).encode() for i in range(len(labels))], object)
    return Features(np.asarray(representations, np.float32), labels, keys)


def blobs(count, num_classes, seed, distance, dimensions=10):
    rng = np.random.default_rng(seed)
    centres = distance * np.random.default_rng(7).normal(size=(num_classes, dimensions))
    labels = rng.integers(num_classes, size=count)
    return features(centres[labels] + rng.normal(size=(count, dimensions)), labels)


def test_separable_classes_are_told_apart():
    train, test = blobs(300, 7, seed=0, distance=8), blobs(200, 7, seed=1, distance=8)
    result = linear.linear_accuracy([train], train, test)
    assert result.top_1 == 1 and result.top_5 == 1
    assert result.interval[0] == pytest.approx(200 / (200 + 1.96**2), abs=1e-4)


def test_overlapping_classes_score_as_with_scikit_learns_logistic_regression():
    train, test = blobs(2000, 5, seed=0, distance=0.5), blobs(2000, 5, seed=1, distance=0.5)
    result = linear.linear_accuracy([train], train, test, batch_size=256)
    reference = LogisticRegression(C=np.inf).fit(train.representations, train.labels)
    expected = reference.score(test.representations, test.labels)
    assert 0.5 < expected < 0.9
    # Two classifiers near one optimum differ in few of the 2000; the interval is ±0.02.
    assert result.top_1 == pytest.approx(expected, abs=0.01)
    assert result.interval[0] < expected < result.interval[1]
    assert result.top_5 == 1 and result.num_test == 2000


def test_the_learning_rate_is_chosen_on_held_out_training_examples_not_on_the_test_set():
    train = blobs(400, 4, seed=0, distance=1.0)
    test = blobs(400, 4, seed=1, distance=1.0)
    wrong_test = Features(test.representations, (test.labels + 1) % 4, test.keys)
    lrs = (-0.1, 0.1)  # The first increases the loss: best if labels are wrong.
    good = linear.linear_accuracy([train], train, test, base_lrs=lrs)
    bad = linear.linear_accuracy([train], train, wrong_test, base_lrs=lrs)
    assert good.base_lr == bad.base_lr == 0.1
    assert good.validation_accuracy == bad.validation_accuracy
    assert good.validation_accuracy[0.1] > 0.7 > 0.3 > good.validation_accuracy[-0.1]
    assert good.top_1 > 0.7 and bad.top_1 < 0.3


def test_validation_looks_at_centre_crops():
    train, test = blobs(300, 3, seed=0, distance=3), blobs(100, 3, seed=1, distance=3)
    view = Features(-train.representations, train.labels, train.keys)
    result = linear.linear_accuracy([view], train, test)
    assert max(result.validation_accuracy.values()) < 0.3, "it was trained on the opposite"


def test_held_out_examples_are_trained_on_only_after_the_choice():
    train, test = blobs(300, 3, seed=0, distance=3), blobs(200, 3, seed=1, distance=3)
    held_out = splits.validation_split(train.labels, 0.1, seed=0)[1]
    poisoned = train.representations.copy()
    poisoned[held_out] = np.nan
    view = Features(poisoned, train.labels, train.keys)
    result = linear.linear_accuracy([view], train, test)
    assert max(result.validation_accuracy.values()) > 0.9, "the sweep did not meet them"
    assert result.top_1 < 0.5, "the last training did"


def test_the_same_seed_gives_the_same_result_and_zero_is_a_seed():
    train, test = blobs(300, 5, seed=0, distance=0.5), blobs(200, 5, seed=1, distance=0.5)
    first, again, other = (
        linear.linear_accuracy([train], train, test, seed=seed, batch_size=64) for seed in (0, 0, 1)
    )
    assert first == again
    assert first.validation_accuracy != other.validation_accuracy


def test_the_fitted_classifier_gives_the_reported_accuracy_in_numpy():
    train, test = blobs(300, 4, seed=0, distance=0.5), blobs(200, 4, seed=1, distance=0.5)
    result = linear.linear_accuracy([train], train, test, seed=3, epochs=5)
    fit = linear.fit_linear([train], train, seed=3, epochs=5)
    assert fit.classifiers.kernel.shape == (10, 1, 4) and fit.classifiers.bias.shape == (1, 4)
    logits = test.representations @ fit.classifiers.kernel[:, 0] + fit.classifiers.bias[0]
    assert (logits.argmax(axis=1) == test.labels).mean() == pytest.approx(result.top_1)
    for name in ("base_lr", "validation_accuracy", "batch_size"):
        assert getattr(fit, name) == getattr(result, name)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_the_split_is_stratified_and_complete(fraction):
    counts = [500, 40, 11, 3, 2, 1]
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(6), counts))
    kept, held_out = splits.validation_split(labels, fraction, seed=3)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(557))
    held = np.bincount(labels[held_out], minlength=6)
    assert np.all(np.abs(held - np.array(counts) * fraction) < 1)
    assert np.all(np.bincount(labels[kept]) >= 1) and held[5] == 0
    assert len(held_out) == math.floor(556 * fraction)
    other = splits.validation_split(labels, fraction, seed=4)[1]
    assert not np.array_equal(held_out, other)


@pytest.mark.parametrize("hits, total", [(0, 10), (7, 10), (10, 10), (743, 1000)])
def test_the_interval_is_wilsons(hits, total):
    expected = stats.binomtest(hits, total).proportion_ci(0.95, method="wilson")
    assert accuracy.wilson_interval(hits, total) == pytest.approx(tuple(expected), abs=1e-6)


def test_mistakes_get_a_sentence():
    train, test = blobs(100, 3, seed=0, distance=2), blobs(50, 3, seed=1, distance=2)

    def relabel(data, labels):
        return Features(data.representations, np.asarray(labels, np.int32), data.keys)

    unlabelled = relabel(train, np.full(100, -1))
    for arguments, options, sentence in (
        (([unlabelled], unlabelled, test), {}, "100 of the 100 training examples have no label"),
        (([train], train, relabel(test, test.labels + 1)), {}, r"does not have: \[3\]"),
        (([train.select([0, 1, 2])], train, test), {}, "features.align"),
        (([train], train, test), {"validation_fraction": 0.6}, r"\(0, 0.5\]"),
        (([train], relabel(train, np.zeros(100)), relabel(test, np.zeros(50))), {}, "one class"),
    ):
        with pytest.raises(UserError, match=sentence):
            linear.linear_accuracy(*arguments, **options)
    few = train.select(slice(9))
    known = test.select(np.isin(test.labels, few.labels))
    with pytest.raises(UserError, match="too few to hold out 10%"):
        linear.linear_accuracy([few], few, known)

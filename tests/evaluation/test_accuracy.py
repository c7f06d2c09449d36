import fractions

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from byol_tf.evaluation import accuracy


def devkit_ap(scores, relevant):
    """The loops of VOC2007's VOCevalcls.m, with exact recalls."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    precisions, recalls, hits = [], [], 0
    for rank, i in enumerate(order, start=1):
        hits += int(relevant[i])
        precisions.append(hits / rank)
        recalls.append(fractions.Fraction(hits, int(sum(relevant))))
    total = 0.0
    for tenth in range(11):
        reached = [
            precision
            for precision, recall in zip(precisions, recalls, strict=True)
            if recall >= fractions.Fraction(tenth, 10)
        ]
        total += max(reached, default=0.0) / 11
    return total


@pytest.fixture
def predictions():
    """Unbalanced labels without class 3, and predictions better in some classes than in others."""
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 4], p=[0.6, 0.2, 0.15, 0.05], size=400)
    right = rng.random(400) < np.array([0.9, 0.5, 0.3, 0, 0.7])[labels]
    return np.where(right, labels, rng.integers(5, size=400)), labels


def test_top_1_is_scikit_learns(predictions):
    predicted, labels = predictions
    assert accuracy.top_1(predicted, labels) == pytest.approx(accuracy_score(labels, predicted))


# scikit-learn warns of predicted classes that are not in the labels.
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_mean_per_class_is_scikit_learns_over_the_classes_that_are_there(predictions):
    predicted, labels = predictions
    assert 3 in predicted, "a class that is predicted and never there must not count"
    expected = balanced_accuracy_score(labels, predicted)
    assert accuracy.mean_per_class(predicted, labels) == pytest.approx(expected)
    assert abs(expected - accuracy.top_1(predicted, labels)) > 0.05


def test_average_precision_by_hand():
    # Positives rank 1, 3 and 6. Precisions 1, 2/3, 1/2 hold up to recalls 1/3, 2/3, 1: that is for
    # the recalls 0 to 0.3, 0.4 to 0.6, and 0.7 to 1.
    relevant = np.array([1, 0, 1, 0, 0, 1, 0])
    scores = np.linspace(1, 0, 7)
    expected = (4 * 1 + 3 * 2 / 3 + 4 * 1 / 2) / 11
    assert accuracy.voc07_ap(scores, relevant) == pytest.approx(expected)


def test_a_precision_counts_for_every_lower_recall():
    # The first positive has rank 2, precision 1/2; the third, rank 4, has 3/4, and recall 1.
    relevant = np.array([0, 1, 1, 1])
    assert accuracy.voc07_ap(np.array([4.0, 3, 2, 1]), relevant) == pytest.approx(3 / 4)


@pytest.mark.parametrize("positives", [1, 3, 10, 37])
def test_average_precision_is_the_devkits(positives):
    rng = np.random.default_rng(positives)
    relevant = rng.permutation(np.arange(200) < positives)
    scores = rng.normal(size=200) + relevant
    expected = devkit_ap(scores, relevant)
    assert accuracy.voc07_ap(scores, relevant) == pytest.approx(expected)
    assert expected < 0.99


def test_a_recall_reached_exactly_counts():
    # Three of ten positives first: a recall of exactly 0.3, where 3 * 0.1 is above 0.3.
    relevant = np.array([1] * 3 + [0] * 20 + [1] * 7)
    scores = -np.arange(30.0)
    assert accuracy.voc07_ap(scores, relevant) == pytest.approx((4 * 1 + 7 * 10 / 30) / 11)


def test_difficult_examples_do_not_rank():
    scores = np.array([[0.9], [0.8], [0.7], [0.6]])
    relevance = np.array([[-1], [1], [-1], [0]])
    assert accuracy.voc07_map(scores, relevance) == 1
    # It would be an error if absent and a hit if present.
    assert accuracy.voc07_map(scores, np.maximum(relevance, 0)) == pytest.approx(1 / 2)


def test_the_mean_is_over_classes_with_a_positive():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(50, 3))
    relevance = rng.integers(-1, 2, size=(50, 3))
    relevance[:, 1] = np.minimum(relevance[:, 1], 0)
    expected = []
    for c in (0, 2):
        kept = [i for i in range(50) if relevance[i, c] != -1]
        expected.append(devkit_ap(scores[kept, c], relevance[kept, c]))
    assert accuracy.voc07_map(scores, relevance) == pytest.approx(np.mean(expected))

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from byol_tf.errors import UserError
from byol_tf.evaluation import knn
from byol_tf.evaluation.features import Features


def features(representations, labels):
    labels = np.asarray(labels, np.int32)
    keys = np.array([str(i).encode() for i in range(len(labels))], object)
    return Features(np.asarray(representations, np.float32), labels, keys)


def clusters(count, num_classes, seed, spread=1.2, dimensions=16):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(num_classes, dimensions))
    labels = rng.integers(num_classes, size=count)
    # Lengths vary, which must not affect cosine similarity.
    lengths = rng.uniform(0.1, 10, size=(count, 1))
    return features(
        lengths * (centres[labels] + spread * rng.normal(size=(count, dimensions))), labels
    )


def sklearn_votes(train, test, k, temperature=0.07):
    reference = KNeighborsClassifier(
        n_neighbors=k,
        metric="cosine",
        algorithm="brute",
        weights=lambda distances: np.exp((1 - distances) / temperature),
    )
    reference.fit(train.representations.astype(np.float64), train.labels)
    return reference.predict_proba(test.representations.astype(np.float64))


@pytest.mark.parametrize("k", [1, 7, 200])
def test_accuracies_equal_scikit_learns(k):
    train, test = clusters(500, 8, seed=0), clusters(301, 8, seed=1)
    votes = sklearn_votes(train, test, k)
    result = knn.knn_accuracy(train, test, k=k)
    assert result.top_1 == pytest.approx((votes.argmax(axis=1) == test.labels).mean())
    # With k < 5, classes without votes complete the five, lowest label first, as in a stable sort.
    best = np.argsort(-votes, axis=1, kind="stable")[:, :5]
    assert result.top_5 == pytest.approx((best == test.labels[:, np.newaxis]).any(axis=1).mean())
    assert 0.3 < result.top_1 < 0.99, "the case must be able to tell right from wrong"
    assert (result.k, result.num_test) == (k, 301)


def test_temperature_changes_the_vote():
    # One near neighbour of class 1 against three farther ones of class 0.
    angles = np.array([0.0, 0.5, 0.5, 0.5])
    train = features(np.stack([np.cos(angles), np.sin(angles)], axis=1), [1, 0, 0, 0])
    test = features([[1.0, 0.0]], [1])
    # exp(1 / T) against 3 exp(cos 0.5 / T): equal at T = (1 - cos 0.5) / ln 3 = 0.1114.
    assert knn.knn_accuracy(train, test, temperature=0.110).top_1 == 1
    assert knn.knn_accuracy(train, test, temperature=0.113).top_1 == 0


def test_k_is_clipped_to_the_training_set():
    train, test = clusters(30, 3, seed=0), clusters(20, 3, seed=1)
    result = knn.knn_accuracy(train, test)
    assert result.k == 30
    votes = sklearn_votes(train, test, 30)
    assert result.top_1 == pytest.approx((votes.argmax(axis=1) == test.labels).mean())
    assert result.top_5 == 1, "there are only three classes"


def test_chunks_do_not_change_the_result(monkeypatch):
    train, test = clusters(100, 8, seed=0), clusters(53, 8, seed=1)
    whole = knn.knn_accuracy(train, test, k=20)
    monkeypatch.setattr(knn, "_MAX_ELEMENTS", 1000)
    assert knn.knn_accuracy(train, test, k=20) == whole


def test_equal_neighbours_and_equal_votes_go_to_the_first():
    train = features([[1, 0]] * 4, [2, 1, 0, 0])
    assert knn.knn_accuracy(train, features([[1, 0]], [2]), k=1).top_1 == 1
    assert knn.knn_accuracy(train, features([[1, 0]], [1]), k=2).top_1 == 1


def test_a_class_unknown_to_the_training_set_is_wrong():
    train = features(np.eye(2), [0, 1])
    assert knn.knn_accuracy(train, features(np.eye(2), [0, 7])).top_1 == 0.5


def test_a_zero_representation_is_no_error():
    train = features([[1, 0], [0, 1], [0, 0]], [0, 1, 1])
    assert knn.knn_accuracy(train, features([[0, 0]], [1])).top_1 == 1


def test_labels_are_needed():
    train = features(np.eye(2), [0, 1])
    with pytest.raises(UserError, match="test examples have no label"):
        knn.knn_accuracy(train, features(np.eye(2), [0, -1]))


def test_features_of_two_encoders_are_refused():
    with pytest.raises(UserError, match="one encoder"):
        knn.knn_accuracy(features(np.eye(2), [0, 1]), features(np.eye(3), [0, 1, 1]))

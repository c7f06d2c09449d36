"""Weighted k-nearest-neighbour accuracy, as in Wu et al. 2018 (arXiv 1805.01978, section 3.4).

It needs no training and no choice of hyperparameters: the quickest measure of a representation.
"""

import dataclasses
import functools

import ml_collections
import numpy as np
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder
from byol_tf.evaluation.features import Features, check_labelled
from byol_tf.evaluation.results import percent
from byol_tf.evaluation.splits import Splits

# Bounds the similarities and the one-hot votes of a chunk of queries: 256 MB each.
_MAX_ELEMENTS = 2**26


@dataclasses.dataclass(frozen=True)
class KNNResult:
    """Accuracies in [0, 1].

    Attributes:
        top_1: Fraction of the test examples whose class has the most votes.
        top_5: Fraction whose class is among the five with the most votes (1 with fewer classes).
        k: Number of neighbours that voted.
        num_test: Number of test examples.
    """

    top_1: float
    top_5: float
    k: int
    num_test: int

    def cells(self) -> dict[str, str]:
        """Returns the cells of the results table by header."""
        return {"kNN top-1, %": percent(self.top_1)}


def evaluate(
    encoder: EvaluatedEncoder, splits: Splits, config: ml_collections.ConfigDict
) -> KNNResult:
    """Runs the protocol; `config` is its section of configs/evaluation.py.

    Raises:
        UserError: A value of `config` is out of range, or what `knn_accuracy` raises.
    """
    if config.k < 1 or not config.temperature > 0:
        raise UserError(
            f"knn.k is {config.k}, knn.temperature {config.temperature}; give at least 1 neighbour "
            "and a temperature above 0."
        )
    train, test, _ = splits.features(encoder, 0)
    return knn_accuracy(train, test, **config)


def knn_accuracy(
    train: Features, test: Features, k: int = 200, temperature: float = 0.07
) -> KNNResult:
    """Classifies each test example by its k nearest training examples.

    Nearness is cosine similarity s; a neighbour's vote for its class weighs exp(s / temperature).
    Ties go to the earlier of equally near examples, and to the lower of labels with equal votes. A
    test example of a class that is not in `train` counts as wrong.

    Args:
        train: N labelled examples.
        test: M labelled examples.
        k: Number of neighbours, clipped to N.
        temperature: Temperature of the votes, above 0.

    Raises:
        UserError: An example has no label, or the features come from different encoders.
    """
    check_labelled(train, "training")
    check_labelled(test, "test")
    if train.representations.shape[1] != test.representations.shape[1]:
        raise UserError(
            f"the training features have {train.representations.shape[1]} dimensions, the test "
            f"features {test.representations.shape[1]}; take both from one encoder."
        )
    k = min(k, len(train.labels))
    num_classes = int(train.labels.max()) + 1
    classify = functools.partial(
        _ranked_classes,
        neighbours=_normalized(train.representations),
        labels=tf.constant(train.labels),
        temperature=tf.constant(temperature, tf.float32),
        k=k,
        num_classes=num_classes,
    )
    chunk = max(1, _MAX_ELEMENTS // max(len(train.labels), k * num_classes))
    ranked = np.concatenate(
        [
            classify(_normalized(test.representations[start : start + chunk])).numpy()
            for start in range(0, len(test.labels), chunk)
        ]
    )
    hits = ranked == test.labels[:, np.newaxis]
    return KNNResult(float(hits[:, 0].mean()), float(hits.any(axis=1).mean()), k, len(test.labels))


def _normalized(representations: np.ndarray) -> tf.Tensor:
    return tf.math.l2_normalize(tf.convert_to_tensor(representations), axis=1)


@tf.function(autograph=False, reduce_retracing=True)
def _ranked_classes(queries, neighbours, labels, temperature, k, num_classes):
    """Returns the classes with the most votes, best first: `[b, D]` -> int32 `[b, min(5, C)]`."""
    similarity = tf.matmul(queries, neighbours, transpose_b=True)  # [b, N]
    similarity, nearest = tf.math.top_k(similarity, k)  # Ties go to the lower index.
    weights = tf.exp(similarity / temperature)  # [b, k]
    ballots = tf.one_hot(tf.gather(labels, nearest), num_classes)  # [b, k, C]
    votes = tf.einsum("bk,bkc->bc", weights, ballots)
    return tf.math.top_k(votes, min(5, num_classes)).indices

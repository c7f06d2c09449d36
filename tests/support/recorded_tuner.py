"""A stand-in for `FineTuner` that records its calls, and whose accuracy the test sets."""

import functools
from typing import Any

import numpy as np

from byol_tf.evaluation.finetuner import Classified, Diverged
from byol_tf.evaluation.subsets import list_examples
from byol_tf.sources import Source

_listing = functools.cache(list_examples)


def keys(source: Source) -> list[str]:
    """Returns the keys of all examples of a source."""
    return _listing(source).keys


class RecordedTuner:
    """Recorder that a test calls instead of the class `FineTuner`.

    Args:
        accuracies: Learning rate -> fraction of images that are classified correctly; None makes
            the training diverge.

    Attributes:
        made: Arguments of each instance.
        trained: Keyword arguments of each training, and its `source`.
        classified: Source of each classification.
    """

    def __init__(self, accuracies: dict[float, float | None]) -> None:
        self.accuracies = accuracies
        self.made: list[tuple] = []
        self.trained: list[dict] = []
        self.classified: list[Source] = []

    def __call__(self, *arguments: Any) -> "RecordedTuner":
        """Records the arguments of an instance; returns this recorder as the instance."""
        self.made.append(arguments)
        return self

    def train(self, source: Source, **options: Any) -> None:
        """Records a training; raises Diverged if the test asked for it."""
        self.trained.append({"source": source} | options)
        if self.accuracies[round(options["learning_rate"], 6)] is None:
            raise Diverged("diverged")

    def classify(self, source: Source) -> Classified:
        """Records a classification; returns labels with the accuracy that the test set."""
        self.classified.append(source)
        labels = _listing(source).labels
        accuracy = self.accuracies[round(self.trained[-1]["learning_rate"], 6)]
        # The last images are wrong, so that classes differ in accuracy.
        predicted = np.where(np.arange(len(labels)) < accuracy * len(labels), labels, labels ^ 1)
        return Classified(np.eye(10, dtype=np.float32)[predicted], labels)

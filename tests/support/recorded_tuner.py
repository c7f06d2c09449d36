"""A stand-in for `FineTuner` that records its calls, and whose accuracy a test decides."""

import functools

import numpy as np

from byol_tf.evaluation.finetuner import Classified, Diverged
from byol_tf.evaluation.subsets import list_examples

_listing = functools.cache(list_examples)


def keys(source) -> list[str]:
    """Returns the keys of all examples of a source."""
    return _listing(source).keys


class RecordedTuner:
    """A stand-in for the class `FineTuner` itself: calling it records a new instance.

    Args:
        accuracies: Fractions of images classified correctly, by learning rate; None diverges.

    Attributes:
        made: Arguments of each instance.
        trained: Keyword arguments of each training, and its `source`.
        classified: Sources that were classified.
    """

    def __init__(self, accuracies):
        self.accuracies = accuracies
        self.made, self.trained, self.classified = [], [], []

    def __call__(self, *arguments):
        self.made.append(arguments)
        return self

    def train(self, source, **options):
        self.trained.append({"source": source} | options)
        if self.accuracies[round(options["learning_rate"], 6)] is None:
            raise Diverged("diverged")

    def classify(self, source):
        self.classified.append(source)
        labels = _listing(source).labels
        accuracy = self.accuracies[round(self.trained[-1]["learning_rate"], 6)]
        # The last ones are wrong, so that classes differ in accuracy.
        predicted = np.where(np.arange(len(labels)) < accuracy * len(labels), labels, labels ^ 1)
        return Classified(np.eye(10, dtype=np.float32)[predicted], labels)

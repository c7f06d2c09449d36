"""What an encoder is evaluated on: a training set and a test set, met through a cache."""

import functools
import os

import numpy as np
from absl import logging

from byol_tf.errors import UserError
from byol_tf.evaluation.cache import FeatureCache
from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder
from byol_tf.evaluation.features import Features, align
from byol_tf.sources import Source, open_source


class Splits:
    """Two splits of one data set; a protocol opens them as what it needs.

    Args:
        train, test: names, as `sources.open_source` or a protocol's own reader takes them.
        seed: of splits, crops and shuffles.
        output_dir: an existing folder for what protocols write beside their result; None for
            nothing.
        cache: of features.
    """

    def __init__(
        self,
        train: str,
        test: str,
        *,
        seed: int = 0,
        output_dir: str | None = None,
        cache: FeatureCache | None = None,
    ):
        self.train = train
        self.test = test
        self.seed = seed
        self.output_dir = output_dir
        self.cache = cache or FeatureCache(None)

    def output_path(self, name: str) -> str | None:
        """Of a file in `output_dir`, or None."""
        return os.path.join(self.output_dir, name) if self.output_dir else None

    def described(self) -> dict[str, dict]:
        """Names of the sets for a record, and how many images they hold where that is known."""
        sources = self.__dict__.get("sources", (None, None))
        return {
            split: {"source": name} | ({"examples": source.num_examples} if source else {})
            for split, name, source in zip(
                ("train", "test"), (self.train, self.test), sources, strict=True
            )
        }

    @functools.cached_property
    def sources(self) -> tuple[Source, Source]:
        """Training and test images with labels of the same classes.

        Raises:
            UserError: a source that does not open, without labels, or with other classes.
        """
        train, test = open_source(self.train), open_source(self.test)
        for source in (train, test):
            if source.class_names is None:
                raise UserError(
                    f"'{source.name}' has no labels, and accuracy needs them; give a folder with "
                    "one subfolder a class, or TFRecords with image/label."
                )
        # TFRecords that lack a class do not know its name and say its number.
        same = all(
            str(label) in (name, other) or name == other
            for label, (name, other) in enumerate(zip(train.class_names, test.class_names))
        )
        if not same or len(test.class_names) > len(train.class_names):
            differing = sorted(set(train.class_names) ^ set(test.class_names)) or "their order"
            raise UserError(
                f"'{train.name}' and '{test.name}' do not have the same classes "
                f"(differing: {differing}); give two splits of one data set."
            )
        return train, test

    def passes(
        self, pretrained: EvaluatedEncoder, num_views: int
    ) -> tuple[Features, Features, list[Features]]:
        """Features of the training set, of the test set, and of crops and flips of the first.

        Args:
            pretrained: the encoder.
            num_views: how many crops and flips of each image.

        Returns:
            train, test, and a list of `num_views` that is aligned with train.

        Raises:
            UserError: as `sources`; features that `features.extract` refuses.
        """
        train_source, test_source = self.sources
        extract = functools.partial(self.cache.extract, pretrained)
        views = []
        for view in range(num_views):
            logging.info("random crops and flips: pass %d of %d", view + 1, num_views)
            views.append(extract(train_source, augmentation_seed=1000 * self.seed + view))
        train, *views = align([extract(train_source), *views])
        return train, extract(test_source), views


def validation_split(
    labels: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions to train on and positions held out, sorted.

    Each class is held out in proportion, to within one example; a class's only example is not.

    Args:
        labels: int `[N]`.
        fraction: in (0, 0.5].
        seed: decides which examples.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    by_class = by_class[np.bincount(labels)[labels[by_class]] > 1]
    # Every (1 / fraction)-th example of the sequence in which classes are contiguous.
    marks = np.floor(np.arange(len(by_class) + 1) * fraction)
    held_out = np.sort(by_class[np.diff(marks) > 0])
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out

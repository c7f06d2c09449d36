"""Training and test set of an evaluation, with cached features."""

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
    """Two splits of one data set; each protocol opens them in its own way.

    Args:
        train, test: Names, as `sources.open_source` or a protocol's own reader takes them.
        seed: Seed of validation splits, crops and shuffles.
        output_dir: Existing folder for files that protocols write beside their result; None writes
            none.
        cache: Cache of features; by default nothing is stored.
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
        self._sources: tuple[Source, Source] | None = None

    def output_path(self, name: str) -> str | None:
        """Returns the path of a file in `output_dir`, or None without one."""
        return os.path.join(self.output_dir, name) if self.output_dir else None

    def described(self) -> dict[str, dict]:
        """Returns the names of the splits for a record, with image counts once they are open."""
        sources = self._sources or (None, None)
        return {
            split: {"source": name} | ({"examples": source.num_examples} if source else {})
            for split, name, source in zip(
                ("train", "test"), (self.train, self.test), sources, strict=True
            )
        }

    @property
    def sources(self) -> tuple[Source, Source]:
        """Training and test images with labels of the same classes, opened on first use.

        Raises:
            UserError: A source does not open, has no labels, or has other classes.
        """
        if self._sources is None:
            train, test = open_source(self.train), open_source(self.test)
            _check_same_classes(train, test)
            self._sources = train, test
        return self._sources

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names of the training set, by label.

        Raises:
            UserError: What `sources` raises.
        """
        return _class_names(self.sources[0])

    def features(
        self, encoder: EvaluatedEncoder, num_views: int
    ) -> tuple[Features, Features, list[Features]]:
        """Returns features of the training set, of the test set, and of augmented training images.

        Args:
            encoder: Encoder to evaluate.
            num_views: Number of random crops and flips of each training image.

        Returns:
            Features of the training set, of the test set, and a list of `num_views` passes over the
            augmented training set, aligned with the first.

        Raises:
            UserError: What `sources` and `features.extract` raise.
        """
        train_source, test_source = self.sources
        extract = functools.partial(self.cache.extract, encoder)
        views = []
        for view in range(num_views):
            logging.info("random crops and flips: pass %d of %d", view + 1, num_views)
            views.append(extract(train_source, augmentation_seed=1000 * self.seed + view))
        train, *views = align([extract(train_source), *views])
        return train, extract(test_source), views


def validation_split(
    labels: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns sorted positions to train on and sorted positions held out, stratified by class.

    The share of each class is exact to within one example; the only example of a class is kept.

    Args:
        labels: Labels, int `[N]`.
        fraction: Fraction to hold out, in (0, 0.5].
        seed: Seed of the draw.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    by_class = by_class[np.bincount(labels)[labels[by_class]] > 1]
    # Every (1 / fraction)-th example of a sequence sorted by class.
    marks = np.floor(np.arange(len(by_class) + 1) * fraction)
    held_out = np.sort(by_class[np.diff(marks) > 0])
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def _class_names(source: Source) -> tuple[str, ...]:
    if source.class_names is None:
        raise UserError(
            f"'{source.name}' has no labels, and accuracy needs them; give a folder with one "
            "subfolder per class, or TFRecords with image/label."
        )
    return source.class_names


def _check_same_classes(train: Source, test: Source) -> None:
    ours, theirs = _class_names(train), _class_names(test)
    # TFRecords that lack a class do not know its name and give its number. Lengths may differ: the
    # test set may lack the last classes.
    same = all(
        str(label) in (name, other) or name == other
        for label, (name, other) in enumerate(zip(ours, theirs, strict=False))
    )
    if not same or len(theirs) > len(ours):
        differing = sorted(set(ours) ^ set(theirs)) or "their order"
        raise UserError(
            f"'{train.name}' and '{test.name}' do not have the same classes (differing: "
            f"{differing}); give two splits of one data set."
        )

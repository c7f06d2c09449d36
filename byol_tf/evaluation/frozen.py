"""The protocols of a frozen encoder, from images to results; they share passes over the data."""

import dataclasses
from collections.abc import Callable, Collection

import tensorflow as tf
from absl import logging

from byol_tf.data import evaluation_dataset
from byol_tf.errors import UserError
from byol_tf.evaluation import features
from byol_tf.evaluation.knn import KNNResult, knn_accuracy
from byol_tf.evaluation.linear import LinearResult, linear_accuracy
from byol_tf.preprocessing import Preprocessing
from byol_tf.sources import Source

_BATCH_SIZE = 256


@dataclasses.dataclass(frozen=True)
class Images:
    """What an encoder is evaluated on.

    Attributes:
        train, test: labelled sources with the same classes.
        preprocessing: of centre crops.

    Raises:
        UserError: a source without labels, or with other classes.
    """

    train: Source
    test: Source
    preprocessing: Preprocessing

    def __post_init__(self):
        for source in (self.train, self.test):
            if source.class_names is None:
                raise UserError(
                    f"'{source.name}' has no labels, and accuracy needs them; give a folder with "
                    "one subfolder a class, or TFRecords with image/label."
                )
        train, test = self.train.class_names, self.test.class_names
        # TFRecords that lack a class do not know its name and say its number.
        same = all(
            str(label) in (name, other) or name == other
            for label, (name, other) in enumerate(zip(train, test))
        )
        if not same or len(test) > len(train):
            differing = sorted(set(train) ^ set(test)) or "their order"
            raise UserError(
                f"'{self.train.name}' and '{self.test.name}' do not have the same classes "
                f"(differing: {differing}); give two splits of one data set."
            )

    def passes(self, encoder: Callable[..., tf.Tensor], num_views: int, seed: int):
        """Features of the training set, of the test set, and of crops and flips of the first.

        Args:
            encoder: as `features.extract` takes it.
            num_views: how many crops and flips of each image.
            seed: of the crops and flips.

        Returns:
            train, test, and a list of `num_views` that is aligned with train.
        """

        def extract(source, train_seed=None):
            dataset = evaluation_dataset(
                source, self.preprocessing, _BATCH_SIZE, train_seed=train_seed
            )
            return features.extract(encoder, dataset)

        views = []
        for view in range(num_views):
            logging.info("random crops and flips: pass %d of %d", view + 1, num_views)
            views.append(extract(self.train, train_seed=1000 * seed + view))
        train, *views = features.align([extract(self.train), *views])
        return train, extract(self.test), views


def evaluate(
    encoder: Callable[..., tf.Tensor],
    images: Images,
    protocols: Collection[str],
    num_views: int,
    seed: int,
) -> dict[str, KNNResult | LinearResult]:
    """Runs protocols on an encoder: name → result.

    Args:
        encoder: as `features.extract` takes it.
        images: what to evaluate on.
        protocols: of `knn` and `linear`.
        num_views: random crops and flips of each image for linear evaluation; 0 trains on centre
            crops.
        seed: of crops, split and shuffles.
    """
    linear = "linear" in protocols
    train, test, views = images.passes(encoder, num_views if linear else 0, seed)
    results = {}
    if "knn" in protocols:
        results["knn"] = knn_accuracy(train, test)
    if linear:
        results["linear"] = linear_accuracy(views or [train], train, test, seed=seed)
    return results

"""Linear evaluation (paper section 4.1, appendix C.1): a linear classifier on the frozen encoder.

The learning rate is chosen on examples held out of the training set; the classifier is then
retrained on all of it and evaluated on the test set once. It works on features: each image is
encoded V times, as V random crops and flips, and epoch e trains on pass e mod V. With V = 80, the
number of epochs, this is exactly the paper's protocol.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np
from absl import logging

from byol_tf.errors import UserError
from byol_tf.evaluation.accuracy import wilson_interval
from byol_tf.evaluation.classifiers import Classifiers, train_classifiers
from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder
from byol_tf.evaluation.features import Features, check_labelled
from byol_tf.evaluation.results import percent
from byol_tf.evaluation.splits import Splits, validation_split

BASE_LEARNING_RATES = (0.4, 0.3, 0.2, 0.1, 0.05)


@dataclasses.dataclass(frozen=True)
class LinearResult:
    """Accuracies in [0, 1].

    Attributes:
        top_1, top_5: Accuracy on the test set (top-5 with fewer than five classes is 1).
        interval: 95 % confidence interval of top_1 over draws of the test set (Wilson 1927).
        base_lr: Learning rate chosen, for a batch of 256.
        validation_accuracy: Top-1 accuracy on the held-out examples by base learning rate.
        batch_size: Batch size used.
        num_test: Number of test examples.
    """

    top_1: float
    top_5: float
    interval: tuple[float, float]
    base_lr: float
    validation_accuracy: dict[float, float]
    batch_size: int
    num_test: int

    def cells(self) -> dict[str, str]:
        """Returns the cells of the results table by header."""
        return {
            "linear top-1, % [95 % interval]": percent(self.top_1, self.interval),
            "linear top-5, %": percent(self.top_5),
        }


@dataclasses.dataclass(frozen=True)
class LinearFit:
    """The trained classifier and how it was chosen.

    Attributes:
        classifiers: The one classifier, trained on the whole set: logits = representation ·
            kernel[:, 0] + bias[0].
        base_lr, validation_accuracy, batch_size: Values as in `LinearResult`.
    """

    classifiers: Classifiers
    base_lr: float
    validation_accuracy: dict[float, float]
    batch_size: int


def evaluate(
    encoder: EvaluatedEncoder, splits: Splits, config: ml_collections.ConfigDict
) -> LinearResult:
    """Runs the protocol; `config` is its section of configs/evaluation.py.

    Raises:
        UserError: The number of views is negative, or what `linear_accuracy` raises.
    """
    options = dict(config)
    if config.views < 0:
        raise UserError(f"linear.views is {config.views}; give 0 or more.")
    train, test, views = splits.features(encoder, options.pop("views"))
    return linear_accuracy(views or [train], train, test, seed=splits.seed, **options)


def linear_accuracy(
    train_views: Sequence[Features], train: Features, test: Features, **options: Any
) -> LinearResult:
    """Runs the whole protocol: sweep, choice, training on the whole set, test.

    Args:
        train_views, train, options: Arguments of `fit_linear`.
        test: Centre crops of the test set.

    Raises:
        UserError: What `fit_linear` raises, or a test example has no label or a class that the
            training set does not have.
    """
    _check_test(train, test)
    return evaluate_fit(fit_linear(train_views, train, **options), test)


def evaluate_fit(fit: LinearFit, test: Features) -> LinearResult:
    """Returns the accuracy of a trained classifier on the test set's centre crops."""
    num_classes = fit.classifiers.bias.shape[1]
    hits_1 = fit.classifiers.hits(test.representations, test.labels, 1)
    hits_5 = fit.classifiers.hits(test.representations, test.labels, min(5, num_classes))
    return LinearResult(
        top_1=float(hits_1.mean()),
        top_5=float(hits_5.mean()),
        interval=wilson_interval(int(hits_1.sum()), len(hits_1)),
        base_lr=fit.base_lr,
        validation_accuracy=fit.validation_accuracy,
        batch_size=fit.batch_size,
        num_test=len(test.labels),
    )


def fit_linear(
    train_views: Sequence[Features],
    train: Features,
    *,
    seed: int = 0,
    epochs: int = 80,
    batch_size: int = 1024,
    base_lrs: Sequence[float] = BASE_LEARNING_RATES,
    validation_fraction: float = 0.1,
) -> LinearFit:
    """Chooses the learning rate and trains on the whole set: the protocol without its test.

    All learning rates of the sweep are trained in one program, on the same batches.

    Args:
        train_views: V passes over the training set, aligned with `train`: random crops and flips,
            or just `[train]`, which is cheaper.
        train: Centre crops of the training set; validation uses those of the held-out examples.
        seed: Seed of the split and the shuffles.
        epochs: Number of epochs, in the sweep and in the final training.
        batch_size: Batch size, clipped to the number of training examples; the remainder of an
            epoch is dropped.
        base_lrs: Learning rates to try; the rate used is base × batch / 256, with the clipped
            batch. Ties go to the earlier one.
        validation_fraction: Fraction of the training set to hold out, in (0, 0.5].

    Raises:
        UserError: A label is missing, there are too few examples or classes, or the views are not
            aligned with the training set.
    """
    _check_training(train_views, train, validation_fraction)
    kept, held_out = validation_split(train.labels, validation_fraction, seed)

    views = [view.representations for view in train_views]
    schedule = {"epochs": epochs, "batch_size": batch_size, "seed": seed}
    sweep = train_classifiers(views, train.labels, kept, base_lrs, **schedule)
    top_1 = sweep.hits(train.representations[held_out], train.labels[held_out], 1).mean(axis=0)
    base_lr = base_lrs[int(np.argmax(top_1))]
    logging.info("linear evaluation: base lr %g of %s, accuracy %s", base_lr, base_lrs, top_1)

    everything = np.arange(len(train.labels))
    return LinearFit(
        classifiers=train_classifiers(views, train.labels, everything, [base_lr], **schedule),
        base_lr=float(base_lr),
        validation_accuracy=dict(zip(map(float, base_lrs), top_1.tolist(), strict=True)),
        batch_size=min(batch_size, len(train.labels)),
    )


def _check_test(train: Features, test: Features) -> None:
    check_labelled(train, "training")
    check_labelled(test, "test")
    unknown = sorted(set(test.labels.tolist()) - set(train.labels.tolist()))
    if unknown:
        raise UserError(
            f"the test set has labels the training set does not have: {unknown[:10]}; give sets "
            "with the same classes."
        )


def _check_training(
    train_views: Sequence[Features], train: Features, validation_fraction: float
) -> None:
    check_labelled(train, "training")
    if not 0 < validation_fraction <= 0.5:
        raise UserError(f"the validation fraction is {validation_fraction}; give one in (0, 0.5].")
    classes, counts = np.unique(train.labels, return_counts=True)
    if len(classes) < 2:
        raise UserError("the training set has one class; linear evaluation needs at least two.")
    if math.floor(counts[counts > 1].sum() * validation_fraction) < 1:
        raise UserError(
            f"the training set has {len(train.labels)} examples, too few to hold out "
            f"{validation_fraction:.0%} of them to choose the learning rate; give more examples."
        )
    for view in train_views:
        if not np.array_equal(view.keys, train.keys):
            raise UserError(
                "the augmented passes do not hold the same examples as the training set; align "
                "them with features.align first."
            )

"""Transfer to other classification tasks (paper section 4.3, appendix D.2): logistic regression.

Regressions are fitted on frozen representations of centre crops, without augmentation, for each of
45 regularisation strengths, lambda from 1e-6 to 1e5. The best lambda on examples held out of the
training set is chosen, the regression refitted on the whole set and evaluated on the test set once.
The paper's twelve data sets and their metrics:

    top_1           Food-101, CIFAR-10, CIFAR-100, Birdsnap, SUN397, Stanford Cars, DTD
    mean_per_class  FGVC Aircraft, Oxford-IIIT Pets, Caltech-101, Oxford 102 Flowers
    voc07_map       VOC2007, whose images have several classes: one binary regression per class with
                    a common lambda, chosen by the mean average precision

The paper does not specify the following, nor do SimCLR and Kornblith et al. 2019 (arXiv
1805.08974), whose protocol it is:
  * whether lambda is added to the sum or to the mean of the losses. Here it is the sum, as in the
    published code of Ericsson et al. 2021 (arXiv 2011.13377). With the mean the same lambda is N
    times as strong; for N = 10,000 both grids contain the lambdas from 1e-2 to 1e5 of the sum;
  * whether features are scaled. Here scaling does not change the optimum: see
    `logistic_regression`;
  * whether VOC2007's classes share a lambda.
The paper uses official validation splits where there are some (half of VOC2007's trainval); here a
fraction of the training set is drawn. The paper resizes images to 224 on the shorter side without
cropping that side; here the encoder's own preprocessing is used.
"""

import dataclasses
from collections.abc import Sequence

import ml_collections
import numpy as np
from absl import logging

from byol_tf.errors import UserError
from byol_tf.evaluation import accuracy
from byol_tf.evaluation.accuracy import wilson_interval
from byol_tf.evaluation.dense import voc
from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder
from byol_tf.evaluation.features import check_labelled
from byol_tf.evaluation.logistic_regression import Examples, Regression, regularization_path
from byol_tf.evaluation.results import percent
from byol_tf.evaluation.splits import Splits, validation_split

# Function of (predictions or scores, targets) and table header by metric.
_METRICS = {
    "top_1": (accuracy.top_1, "transfer top-1, % [95 % interval]"),
    "mean_per_class": (accuracy.mean_per_class, "transfer mean per class, %"),
    "voc07_map": (accuracy.voc07_map, "transfer VOC07 mAP, %"),
}


@dataclasses.dataclass(frozen=True)
class TransferResult:
    """Result on the test set.

    Attributes:
        metric: Name of the metric: `top_1`, `mean_per_class` or `voc07_map`.
        value: Value of the metric, in [0, 1].
        interval: 95 % confidence interval of top_1 over draws of the test set (Wilson 1927); None
            for the other metrics.
        chosen_lambda: Regularisation strength chosen, relative to the sum of the losses.
        validation_by_lambda: Metric on the held-out examples by lambda, from strong to weak.
        not_converged: Number of lambdas whose fit reached the iteration limit; their weights are
            short of the optimum.
        refit_converged: Whether the regression on the whole training set converged.
        num_train, num_test: Numbers of examples.
    """

    metric: str
    value: float
    interval: tuple[float, float] | None
    chosen_lambda: float
    validation_by_lambda: dict[float, float]
    not_converged: int
    refit_converged: bool
    num_train: int
    num_test: int

    def cells(self) -> dict[str, str]:
        """Returns the cells of the results table by header."""
        return {_METRICS[self.metric][1]: percent(self.value, self.interval)}


def evaluate(
    encoder: EvaluatedEncoder, splits: Splits, config: ml_collections.ConfigDict
) -> TransferResult:
    """Runs the protocol; `config` is its section of configs/evaluation.py.

    Raises:
        UserError: A value of `config` is out of range, the metric does not fit the data, labels are
            missing, there is only one class, or a class has a single example.
    """
    metric = _checked_metric(config, splits)
    examples = _of_voc if metric == "voc07_map" else _of_labels
    train, test, class_names = examples(encoder, splits)
    strata = train.targets if train.targets.ndim == 1 else _rarest_classes(train.targets)
    kept, held_out = validation_split(strata, config.validation_fraction, splits.seed)
    _check_training(train.targets, kept, held_out, class_names)

    lambdas = np.geomspace(config.max_lambda, config.min_lambda, config.num_lambdas).tolist()
    path = regularization_path(train.select(kept), lambdas, config.max_iterations)
    validation: dict[float, float] = {}
    not_converged = 0
    for strength, regression in zip(lambdas, path, strict=True):
        validation[strength] = _score(metric, regression, train.select(held_out))
        not_converged += not regression.converged
        logging.log_every_n_seconds(logging.INFO, "transfer: lambda %.1e done", 10, strength)
    chosen = max(lambdas, key=lambda strength: validation[strength])  # Ties go to the strongest.
    logging.info("transfer: lambda %.2e, validation %s %.4f", chosen, metric, validation[chosen])

    refit = next(regularization_path(train, [chosen], config.max_iterations))
    if not_converged or not refit.converged:
        logging.warning(
            "transfer: %d of the %d values of lambda did not converge in %d iterations; the chosen "
            "one %s on the whole training set.",
            not_converged, len(lambdas), config.max_iterations,
            "did" if refit.converged else "did not",
        )  # fmt: skip
    value, num_test = _score(metric, refit, test), len(test.targets)
    of_hits = metric == "top_1"
    return TransferResult(
        metric=metric,
        value=value,
        interval=wilson_interval(round(value * num_test), num_test) if of_hits else None,
        chosen_lambda=chosen,
        validation_by_lambda=validation,
        not_converged=not_converged,
        refit_converged=refit.converged,
        num_train=len(train.targets),
        num_test=num_test,
    )


def _score(metric: str, regression: Regression, examples: Examples) -> float:
    score = _METRICS[metric][0]
    if examples.targets.ndim == 1:
        return score(regression.predict(examples.representations), examples.targets)
    return score(regression.scores(examples.representations), examples.targets)


def _of_labels(
    encoder: EvaluatedEncoder, splits: Splits
) -> tuple[Examples, Examples, Sequence[str]]:
    train, test, _ = splits.features(encoder, 0)
    check_labelled(train, "training")
    check_labelled(test, "test")
    class_names = splits.class_names
    unknown = [class_names[label] for label in np.setdiff1d(test.labels, train.labels)]
    if unknown:
        raise UserError(
            f"the test set has classes without a training example: {unknown[:10]}; give "
            "sets with the same classes."
        )
    return (
        Examples(train.representations, train.labels),
        Examples(test.representations, test.labels),
        class_names,
    )


def _of_voc(encoder: EvaluatedEncoder, splits: Splits) -> tuple[Examples, Examples, Sequence[str]]:
    train, test = voc.open_voc(splits.train, "Main"), voc.open_voc(splits.test, "Main")
    class_names = train.class_names
    if class_names != test.class_names:
        raise UserError(
            f"'{splits.train}' and '{splits.test}' do not have the same classes; give two splits "
            "of one data set."
        )
    absent = set(range(len(class_names)))
    for annotation in test.annotations.values():
        absent.difference_update(np.flatnonzero(voc.relevance(annotation, len(class_names)) == 1))
    if absent:
        raise UserError(
            f"no image of '{splits.test}' has an object that is not difficult of "
            f"{[class_names[c] for c in sorted(absent)]}, so their average precision is not "
            "defined; give a split with all classes."
        )

    def examples(data: voc.VOC) -> Examples:
        features = splits.cache.extract(encoder, voc.image_source(data))
        ids = [key.decode().removesuffix(".jpg") for key in features.keys.tolist()]
        targets = [voc.relevance(data.annotation(image_id), len(class_names)) for image_id in ids]
        return Examples(features.representations, np.stack(targets))

    return examples(train), examples(test), class_names


def _rarest_classes(targets: np.ndarray) -> np.ndarray:
    """Returns the rarest class of each image, int `[N]`, or C if it has none, to stratify by."""
    counts = np.append((targets == 1).sum(axis=0), len(targets) + 1)
    present = np.pad(targets == 1, ((0, 0), (0, 1)), constant_values=True)
    return np.argmin(np.where(present, counts, len(targets) + 2), axis=1)


def _checked_metric(config: ml_collections.ConfigDict, splits: Splits) -> str:
    if not 0 < config.min_lambda <= config.max_lambda or config.num_lambdas < 1:
        raise UserError(
            f"transfer takes {config.num_lambdas} lambdas from {config.min_lambda} to "
            f"{config.max_lambda}; give at least 1, and 0 < min_lambda <= max_lambda."
        )
    if not 0 < config.validation_fraction <= 0.5 or config.max_iterations < 1:
        raise UserError(
            f"transfer.validation_fraction is {config.validation_fraction}, max_iterations "
            f"{config.max_iterations}; give a fraction in (0, 0.5] and at least 1 iteration."
        )
    of_voc = [name.startswith(voc.PREFIX) for name in (splits.train, splits.test)]
    metric = config.metric
    if metric == "auto":
        metric = "voc07_map" if of_voc[1] else "top_1"
    if metric not in _METRICS:
        raise UserError(f"transfer.metric is '{metric}'; give auto, {', '.join(_METRICS)}.")
    if of_voc != [metric == "voc07_map"] * 2:
        raise UserError(
            f"the metric {metric} does not fit the data '{splits.train}' and '{splits.test}': "
            "voc07_map needs two splits voc:ROOT:SPLIT, the others images with one class each; "
            "correct transfer.metric or the data."
        )
    return metric


def _check_training(
    targets: np.ndarray, kept: np.ndarray, held_out: np.ndarray, class_names: Sequence[str]
) -> None:
    """Raises `UserError` unless every class can be learnt from `kept` and `held_out` is usable."""
    if targets.ndim == 2:
        for c, name in enumerate(class_names):
            known = targets[kept, c]
            if not (known == 1).any() or not (known == 0).any():
                raise UserError(
                    f"of the {len(kept)} images left for training, {(known == 1).sum()} have the "
                    f"class '{name}', but a regression needs images with and without it; give more "
                    "images."
                )
        held_out = held_out[(targets[held_out] == 1).any(axis=1)]
    else:
        classes, counts = np.unique(targets, return_counts=True)
        if len(classes) < 2:
            raise UserError(
                f"the training set has one class, '{class_names[classes[0]]}'; give at least two."
            )
        if counts.min() < 2:
            raise UserError(
                f"the class '{class_names[classes[counts.argmin()]]}' has 1 training example, "
                "which cannot be split for validation; give it at least 2, or leave the class out."
            )
    if not len(held_out):
        raise UserError(
            f"the training set has {len(targets)} examples, too few to hold any out for "
            "choosing lambda; give more, or a larger transfer.validation_fraction."
        )

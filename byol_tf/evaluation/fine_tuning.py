"""Transfer by fine-tuning the whole encoder (paper section 4.3, appendix D.3).

Each learning rate is tried with each weight decay on a part of the training set and scored on the
rest; the best pair is retrained on all of it and evaluated on the test set once. The protocol is
also SimCLR's (arXiv 2002.05709, appendix B.8). The weight decays are divided by the learning rate,
so that a step shrinks the weights by the decay itself at every rate.

With 57 trainings of 20,000 steps this is the most expensive protocol. Scores are stored in the
output folder of the splits, so an interrupted sweep resumes.

Not in the papers: the schedule (cosine, see finetuner.py), and which weights decay (here kernels,
not biases and BatchNorm). The papers use official validation sets where there are some; here a part
of the training set is always held out. VOC2007, with several labels per image, is not supported.
"""

import dataclasses

import ml_collections

from byol_tf.errors import UserError
from byol_tf.evaluation import accuracy
from byol_tf.evaluation.accuracy import wilson_interval
from byol_tf.evaluation.dense import voc
from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder
from byol_tf.evaluation.finetuner import FineTuner
from byol_tf.evaluation.results import percent
from byol_tf.evaluation.splits import Splits, validation_split
from byol_tf.evaluation.subsets import list_examples
from byol_tf.evaluation.sweep import Point, best, sweep
from byol_tf.sources import Source
from byol_tf.sources.subset import SubsetSource

# Function and table header by metric.
_METRICS = {
    "top_1": (accuracy.top_1, "fine-tuned top-1, % [95 % interval]"),
    "mean_per_class": (accuracy.mean_per_class, "fine-tuned mean per class, %"),
}


@dataclasses.dataclass(frozen=True)
class FineTuningResult:
    """Result on the test set.

    Attributes:
        metric: Name of the metric, `top_1` or `mean_per_class`.
        value: Value of the metric, in [0, 1].
        interval: 95 % confidence interval of top_1 over draws of the test set (Wilson 1927); None
            for mean_per_class.
        learning_rate, weight_decay: Values chosen; the decay is not yet divided by the rate.
        sweep: Points of the sweep: learning_rate, weight_decay, `accuracy` (the metric on the
            held-out images) and `diverged`.
        num_train, num_test: Numbers of images.
    """

    metric: str
    value: float
    interval: tuple[float, float] | None
    learning_rate: float
    weight_decay: float
    sweep: tuple[Point, ...]
    num_train: int
    num_test: int

    def cells(self) -> dict[str, str]:
        """Returns the cells of the results table by header."""
        return {_METRICS[self.metric][1]: percent(self.value, self.interval)}


def evaluate(
    encoder: EvaluatedEncoder, splits: Splits, config: ml_collections.ConfigDict
) -> FineTuningResult:
    """Runs the protocol; `config` is its section of configs/evaluation.py.

    Raises:
        UserError: A value of `config` is out of range, the data are VOC's, a class has too few
            images, the encoder cannot be trained, or training always diverges.
    """
    _check(config, splits)
    train, test = splits.sources
    labels = list_examples(train).labels
    kept, held_out = validation_split(labels, config.validation_fraction, splits.seed)
    if not len(held_out):
        raise UserError(
            f"'{train.name}' has {len(labels)} images, too few to hold out "
            f"{config.validation_fraction:.0%} of them for validation; give more."
        )
    training, validation = SubsetSource(train, kept), SubsetSource(train, held_out)
    metric, _ = _METRICS[config.metric]

    def tuner_of(num_images: int) -> FineTuner:
        momentum = batch_norm_momentum(num_images / config.batch_size)
        return FineTuner(encoder, len(splits.class_names), momentum)

    def fine_tune(
        tuner: FineTuner, source: Source, learning_rate: float, weight_decay: float
    ) -> None:
        tuner.train(
            source,
            steps=config.steps,
            batch_size=config.batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay / learning_rate,
            seed=splits.seed,
        )

    def measure(tuner: FineTuner, source: Source) -> tuple[float, int]:
        classified = tuner.classify(source)
        return metric(classified.predicted, classified.labels), len(classified.labels)

    def score(learning_rate: float, weight_decay: float) -> float:
        fine_tune(tuner, training, learning_rate, weight_decay)
        return measure(tuner, validation)[0]

    tuner = tuner_of(len(kept))
    results = sweep(
        splits,
        "fine_tuning",
        [
            {"learning_rate": rate, "weight_decay": decay}
            for rate in config.learning_rates
            for decay in config.weight_decays
        ],
        score,
        about={
            "encoder": encoder.fingerprint,
            "preprocessing": dataclasses.asdict(encoder.preprocessing),
            "images": train.fingerprint(),
            "seed": splits.seed,
        }
        | {name: config[name] for name in ("steps", "batch_size", "validation_fraction", "metric")},
    )
    chosen = best(results)
    tuner = tuner_of(len(labels))
    fine_tune(tuner, train, chosen["learning_rate"], chosen["weight_decay"])
    value, num_test = measure(tuner, test)
    top_1 = config.metric == "top_1"
    return FineTuningResult(
        metric=config.metric,
        value=value,
        interval=wilson_interval(round(value * num_test), num_test) if top_1 else None,
        learning_rate=chosen["learning_rate"],
        weight_decay=chosen["weight_decay"],
        sweep=tuple(results),
        num_train=len(labels),
        num_test=num_test,
    )


def batch_norm_momentum(steps_per_epoch: float) -> float:
    """Returns max(1 - 10 / s, 0.9), so that the running statistics span a tenth of an epoch."""
    return max(1 - 10 / steps_per_epoch, 0.9)


def _check(config: ml_collections.ConfigDict, splits: Splits) -> None:
    for name in (splits.train, splits.test):
        if name.startswith(voc.PREFIX):
            raise UserError(
                f"'{name}' has several labels per image, but fine_tuning trains with one; give "
                "images with one class each, or --protocol=transfer."
            )
    if config.metric not in _METRICS:
        raise UserError(f"fine_tuning.metric is '{config.metric}'; give {', '.join(_METRICS)}.")
    if min(config.learning_rates, default=0) <= 0 or min(config.weight_decays, default=-1) < 0:
        raise UserError(
            f"fine_tuning.learning_rates is {config.learning_rates}, weight_decays "
            f"{config.weight_decays}; give at least one of each, rates above 0, decays from 0."
        )
    if min(config.steps, config.batch_size) < 1 or not 0 < config.validation_fraction <= 0.5:
        raise UserError(
            f"fine_tuning.steps is {config.steps}, batch_size {config.batch_size}, "
            f"validation_fraction {config.validation_fraction}; give at least 1 step and image, "
            "and a fraction in (0, 0.5]."
        )

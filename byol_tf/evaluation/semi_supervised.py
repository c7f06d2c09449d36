"""Semi-supervised evaluation (paper section 4.2, appendix C.1): fine-tuning on few labels.

The encoder and a linear head are fine-tuned on a class-balanced subset of the training set; the
learning rate and the number of epochs are those that are best on images held out of the training
set, none of them in a subset; the test set is met once. A randomly initialised encoder in the place
of the pretrained one gives the supervised baseline: with the same seed it has the same subsets, the
same images held out, the same batches.

Of the paper are the fractions, batch, momentum, learning rates, epochs, the absence of
regularisation, and a local validation set, which for linear evaluation is 10,009 images of the
training set. It does not say whether the learning rates are scaled by the batch size: here they are
those for a batch of 256, as linear evaluation's. The validation set's labels are not counted among
the 1 % or 10 %, and can be more than those.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import ml_collections
import numpy as np

from byol_tf.errors import UserError
from byol_tf.evaluation import accuracy
from byol_tf.evaluation.accuracy import wilson_interval
from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder
from byol_tf.evaluation.finetuner import FineTuner
from byol_tf.evaluation.results import percent
from byol_tf.evaluation.splits import Splits, validation_split
from byol_tf.evaluation.subsets import Listing, class_balanced, list_examples, read_list, write_list
from byol_tf.evaluation.sweep import Point, best, sweep
from byol_tf.sources.subset import SubsetSource


@dataclasses.dataclass(frozen=True)
class Subset:
    """The labels that are given.

    Attributes:
        percent: of the training set, for the table; as asked, or of a given list as counted.
        positions: int64 `[n]` in the training set, sorted.
        file: the list of their keys, if there is one.
    """

    percent: float
    positions: np.ndarray
    file: str | None


@dataclasses.dataclass(frozen=True)
class SubsetResult:
    """What one subset gives; accuracies in [0, 1].

    Attributes:
        percent, file: as `Subset`.
        num_labels: images in it.
        top_1, top_5: on the test set (top-5 with fewer than five classes is 1).
        interval: 95 % confidence interval of top_1 over draws of the test set (Wilson 1927). What
            another draw of the subset would give is not in it.
        base_lr: the learning rate chosen, for a batch of 256.
        epochs: chosen.
        batch_size: as trained.
        num_test: test images.
        sweep: base_lr, epochs, `accuracy` on the held-out images, and whether it `diverged`.
    """

    percent: float
    file: str | None
    num_labels: int
    top_1: float
    top_5: float
    interval: tuple[float, float]
    base_lr: float
    epochs: int
    batch_size: int
    num_test: int
    sweep: tuple[Point, ...]


@dataclasses.dataclass(frozen=True)
class SemiSupervisedResult:
    """A result a subset, and the number of images held out to choose by."""

    subsets: tuple[SubsetResult, ...]
    num_validation: int

    def cells(self) -> dict[str, str]:
        """Of the results table: header → text."""
        cells = {}
        for subset in self.subsets:
            header = f"{subset.percent:g} % labels top-1, % [95 % interval]"
            cells[header] = percent(subset.top_1, subset.interval)
            cells[f"{subset.percent:g} % labels top-5, %"] = f"{100 * subset.top_5:.1f}"
        return cells


def evaluate(
    pretrained: EvaluatedEncoder, task: Splits, config: ml_collections.ConfigDict
) -> SemiSupervisedResult:
    """Runs the protocol; `config` is its section of configs/evaluation.py.

    A drawn subset is listed in `semi_supervised_<percent>.txt` of the task's folder.

    Raises:
        UserError: a value of `config` is out of range; a subset cannot be drawn or read; too few
            images are left to hold any out; the encoder cannot be trained; training always
            diverges.
    """
    _check(config)
    train, test = task.sources
    listing = list_examples(train)
    subsets = choose_subsets(listing, train.class_names, task, config)
    held_out = hold_out(listing.labels, subsets, config.validation_examples, task.seed)
    validation = SubsetSource(train, held_out)
    tuner = FineTuner(pretrained, len(train.class_names))

    def evaluate_subset(subset: Subset) -> SubsetResult:
        labelled = SubsetSource(train, subset.positions)
        num_labels = len(subset.positions)
        batch_size = min(config.batch_size, num_labels)

        def fine_tune(base_lr, epochs):
            tuner.train(
                labelled,
                steps=max(1, epochs * num_labels // batch_size),
                batch_size=batch_size,
                learning_rate=base_lr * batch_size / 256,
                seed=task.seed,
            )

        def score(base_lr, epochs):
            fine_tune(base_lr, epochs)
            classified = tuner.classify(validation)
            return accuracy.top_1(classified.predicted, classified.labels)

        results = sweep(
            task,
            "semi_supervised",
            [{"base_lr": lr, "epochs": e} for e in config.epochs for lr in config.base_lrs],
            score,
            about={
                "encoder": pretrained.fingerprint,
                "preprocessing": dataclasses.asdict(pretrained.preprocessing),
                "images": train.fingerprint(),
                "labelled": _digest(subset.positions),
                "validation": _digest(held_out),
                "batch_size": batch_size,
                "seed": task.seed,
            },
        )
        chosen = best(results)
        fine_tune(chosen["base_lr"], chosen["epochs"])
        classified = tuner.classify(test)
        hits = classified.hits(1)
        return SubsetResult(
            percent=subset.percent,
            file=subset.file,
            num_labels=num_labels,
            top_1=float(hits.mean()),
            top_5=float(classified.hits(5).mean()),
            interval=wilson_interval(int(hits.sum()), len(hits)),
            base_lr=chosen["base_lr"],
            epochs=chosen["epochs"],
            batch_size=batch_size,
            num_test=len(hits),
            sweep=tuple(results),
        )

    results = tuple(evaluate_subset(subset) for subset in subsets)
    return SemiSupervisedResult(results, len(held_out))


def choose_subsets(
    listing: Listing, class_names: Sequence[str], task: Splits, config: ml_collections.ConfigDict
) -> list[Subset]:
    """Those of `config.subset_files`, or draws by `config.fractions`, whose lists are written."""
    if config.subset_files:
        drawn = [read_list(path, listing) for path in config.subset_files]
        return [
            Subset(float(f"{100 * len(positions) / len(listing.keys):.3g}"), positions, path)
            for positions, path in zip(drawn, config.subset_files, strict=True)
        ]
    subsets = []
    for fraction in config.fractions:
        positions = class_balanced(listing.labels, fraction, task.seed, class_names)
        percent = float(f"{100 * fraction:.3g}")
        path = task.output_path(f"semi_supervised_{percent:g}.txt")
        if path:
            write_list(path, [listing.keys[position] for position in positions])
        subsets.append(Subset(percent, positions, path))
    return subsets


def hold_out(labels: np.ndarray, subsets: Sequence[Subset], most: int, seed: int) -> np.ndarray:
    """Positions, sorted, of images to choose by: in no subset, the classes in proportion.

    Args:
        labels: int `[N]`.
        subsets: whose images are left out.
        most: at most so many, and at most a tenth of N.
        seed: decides which images.

    Raises:
        UserError: the subsets leave none.
    """
    given = np.concatenate([subset.positions for subset in subsets])
    rest = np.setdiff1d(np.arange(len(labels)), given)
    size = min(most, len(labels) // 10, len(rest))
    held_out = validation_split(labels[rest], size / len(rest), seed)[1] if size else rest[:0]
    if not len(held_out):
        raise UserError(
            f"the subsets leave {len(rest)} of {len(labels)} training images, too few to hold some "
            "out to choose the learning rate by; give smaller fractions or more images."
        )
    return rest[held_out]


def _check(config) -> None:
    if not config.subset_files and not config.fractions:
        raise UserError("semi_supervised has neither fractions nor subset_files; give one of them.")
    if not config.base_lrs or not config.epochs or min(config.base_lrs) <= 0:
        raise UserError(
            f"semi_supervised.base_lrs is {config.base_lrs}, epochs {config.epochs}; give at least "
            "one of each, rates above 0."
        )
    if min(config.batch_size, config.validation_examples, *config.epochs) < 1:
        raise UserError(
            f"semi_supervised.batch_size is {config.batch_size}, validation_examples "
            f"{config.validation_examples}, epochs {config.epochs}; give at least 1."
        )


def _digest(positions: np.ndarray) -> str:
    return hashlib.sha256(positions.astype(np.int64).tobytes()).hexdigest()[:16]

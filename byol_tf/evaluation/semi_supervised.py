"""Semi-supervised evaluation (paper section 4.2, appendix C.1): fine-tuning on few labels.

The encoder and a linear head are fine-tuned on a class-balanced subset of the training set. The
learning rate and the number of epochs are chosen on images held out of the training set and of
every subset; the test set is used once. A randomly initialised encoder instead of the pretrained
one gives the supervised baseline: with the same seed it gets the same subsets, held-out images and
batches.

Fractions, batch, momentum, learning rates, epochs, the absence of regularisation and a local
validation set are the paper's; for linear evaluation it holds out 10,009 training images. The paper
does not say whether the learning rates are scaled by the batch size: here they are for a batch of
256, as in linear evaluation. The labels of the validation set are not counted in the 1 % or 10 %,
and there can be more of them.
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
    """Labelled images to fine-tune on.

    Attributes:
        percent: Size in percent of the training set, for the table; as requested, or counted if a
            list was given.
        positions: Positions in the training set, int64 `[n]`, sorted.
        file: Path of the list of their keys, or None.
    """

    percent: float
    positions: np.ndarray
    file: str | None


@dataclasses.dataclass(frozen=True)
class SubsetResult:
    """Result of one subset; accuracies in [0, 1].

    Attributes:
        percent, file: Values as in `Subset`.
        num_labels: Number of images in the subset.
        top_1, top_5: Accuracy on the test set (top-5 with fewer than five classes is 1).
        interval: 95 % confidence interval of top_1 over draws of the test set (Wilson 1927). It
            does not cover other draws of the subset.
        base_lr: Learning rate chosen, for a batch of 256.
        epochs: Number of epochs chosen.
        batch_size: Batch size used.
        num_test: Number of test images.
        sweep: Points of the sweep: base_lr, epochs, `accuracy` on the held-out images and
            `diverged`.
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
    """One result per subset, and the number of images held out for validation."""

    subsets: tuple[SubsetResult, ...]
    num_validation: int

    def cells(self) -> dict[str, str]:
        """Returns the cells of the results table by header."""
        cells = {}
        for subset in self.subsets:
            header = f"{subset.percent:g} % labels top-1, % [95 % interval]"
            cells[header] = percent(subset.top_1, subset.interval)
            cells[f"{subset.percent:g} % labels top-5, %"] = f"{100 * subset.top_5:.1f}"
        return cells


def evaluate(
    encoder: EvaluatedEncoder, splits: Splits, config: ml_collections.ConfigDict
) -> SemiSupervisedResult:
    """Runs the protocol; `config` is its section of configs/evaluation.py.

    A drawn subset is listed in `semi_supervised_<percent>.txt` in the output folder of the splits.

    Raises:
        UserError: A value of `config` is out of range, a subset cannot be drawn or read, too few
            images are left to hold any out, the encoder cannot be trained, or training always
            diverges.
    """
    _check(config)
    train, test = splits.sources
    listing = list_examples(train)
    subsets = choose_subsets(listing, splits, config)
    held_out = hold_out(listing.labels, subsets, config.validation_examples, splits.seed)
    validation = SubsetSource(train, held_out)
    tuner = FineTuner(encoder, len(splits.class_names))

    def evaluate_subset(subset: Subset) -> SubsetResult:
        labelled = SubsetSource(train, subset.positions)
        num_labels = len(subset.positions)
        batch_size = min(config.batch_size, num_labels)

        def fine_tune(base_lr: float, epochs: int) -> None:
            tuner.train(
                labelled,
                steps=max(1, epochs * num_labels // batch_size),
                batch_size=batch_size,
                learning_rate=base_lr * batch_size / 256,
                seed=splits.seed,
            )

        def score(base_lr: float, epochs: int) -> float:
            fine_tune(base_lr, epochs)
            classified = tuner.classify(validation)
            return accuracy.top_1(classified.predicted, classified.labels)

        results = sweep(
            splits,
            "semi_supervised",
            [{"base_lr": lr, "epochs": e} for e in config.epochs for lr in config.base_lrs],
            score,
            about={
                "encoder": encoder.fingerprint,
                "preprocessing": dataclasses.asdict(encoder.preprocessing),
                "images": train.fingerprint(),
                "labelled": _digest(subset.positions),
                "validation": _digest(held_out),
                "batch_size": batch_size,
                "seed": splits.seed,
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
    listing: Listing, splits: Splits, config: ml_collections.ConfigDict
) -> list[Subset]:
    """Returns the subsets of `config.subset_files`, or draws `config.fractions` and lists them.

    Args:
        listing: Labels and keys of the training set.
        splits: Splits whose class names, seed and output folder are used.
        config: Section `semi_supervised`.

    Raises:
        UserError: A subset cannot be drawn or read.
    """
    if config.subset_files:
        drawn = [read_list(path, listing) for path in config.subset_files]
        return [
            Subset(float(f"{100 * len(positions) / len(listing.keys):.3g}"), positions, path)
            for positions, path in zip(drawn, config.subset_files, strict=True)
        ]
    subsets = []
    for fraction in config.fractions:
        positions = class_balanced(listing.labels, fraction, splits.seed, splits.class_names)
        percent = float(f"{100 * fraction:.3g}")
        path = splits.output_path(f"semi_supervised_{percent:g}.txt")
        if path:
            write_list(path, [listing.keys[position] for position in positions])
        subsets.append(Subset(percent, positions, path))
    return subsets


def hold_out(labels: np.ndarray, subsets: Sequence[Subset], most: int, seed: int) -> np.ndarray:
    """Returns sorted positions of validation images: in no subset, stratified by class.

    Args:
        labels: Labels of the training set, int `[N]`.
        subsets: Subsets to exclude.
        most: Maximum number of images; at most a tenth of N are taken in any case.
        seed: Seed of the draw.

    Raises:
        UserError: The subsets leave no image.
    """
    given = np.concatenate([subset.positions for subset in subsets])
    rest = np.setdiff1d(np.arange(len(labels)), given)
    size = min(most, len(labels) // 10, len(rest))
    held_out = validation_split(labels[rest], size / len(rest), seed)[1] if size else rest[:0]
    if not len(held_out):
        raise UserError(
            f"the subsets leave {len(rest)} of {len(labels)} training images, too few to hold some "
            "out for choosing the learning rate; give smaller fractions or more images."
        )
    return rest[held_out]


def _check(config: ml_collections.ConfigDict) -> None:
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

"""The data of a run's report, filled in by `collect` and shown by `page`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from byol_tf.report.classes import ClassSlice
from byol_tf.report.gallery import Gallery


@dataclasses.dataclass(frozen=True)
class Gate:
    """A threshold that decides whether the model is pushed.

    Attributes:
        name: Name of the measure, such as "accuracy" or "representation rank".
        value: Value of this run's model.
        bound: Threshold.
        baseline: Value of the last blessed model, if there is one.
        passed: Whether the model passed the gate.
        explanation: Meaning of the measure, in a sentence.
        direction: Side of `bound` on which the value must be.
        fraction: Whether the numbers are in [0, 1] and shown as percentages.
    """

    name: str
    value: float
    bound: float
    baseline: float | None
    passed: bool
    explanation: str
    direction: Literal["at least", "at most"] = "at least"
    fraction: bool = False


@dataclasses.dataclass(frozen=True)
class SplitStatistics:
    """Statistics of a split; `height` and `width` are (min, median, max) in pixels.

    `pixels` counts the images by channels and bits.
    """

    name: str
    examples: int
    formats: Mapping[str, int] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    height: tuple[float, float, float] | None = None
    width: tuple[float, float, float] | None = None
    pixels: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Timing:
    """State and wall time of a component."""

    component: str
    state: Literal["ran", "cached", "failed"]
    seconds: float


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """Summary of a run. The page says of fields left at their default that they are missing.

    Attributes:
        started: Start time, ISO 8601.
        seconds: Wall time of the whole run.
        labelled: Whether the data has labels to measure accuracy with.
        labels: Value of --labels.
        accuracy_decides: Whether accuracy decides; otherwise label-free measures do.
        version: Version of the model under `serving_path`, such as "1732412345".
        reasons: Sentences why the model was rejected, or notes.
        model: Facts: architecture, parameters (int), embedding_size, image_size, input (channels
            and bits), versions (dict).
        config: Nested config of the training.
        loss_caption: Explanation of the method's loss; empty if unknown.
        history: One row per epoch: epoch, step, loss, lr, ema, projection_std, effective_rank and,
            if measured, online_accuracy and knn_accuracy.
        accuracy: One row per encoder, the trained one first, in the format of byol-evaluate:
            encoder, linear (top_1, top_5, interval, base_lr), knn (top_1, k).
        unmeasured: Sentence on why there is no accuracy, if labels were given.
        slices: Accuracy by class; the row named "overall" is of all examples.
        corrupt: (key, reason) of the first of `corrupt_total` corrupt files.
        not_read: Sentences about links and the like that were skipped, and files of other kinds.
        anomalies: Sentences from the validation of the data, drift included.
        baseline_statistics: Statistics against which drift was measured.
        lineage: Pairs (what, value).
    """

    pipeline_name: str
    run_id: str
    started: str
    seconds: float
    outcome: Literal["pushed", "unchanged", "rejected"]
    labelled: bool
    labels: str = "auto"
    accuracy_decides: bool = False
    version: str | None = None
    serving_path: str | None = None
    reasons: Sequence[str] = ()
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    loss_caption: str = ""
    history: Sequence[Mapping[str, float]] = ()
    accuracy: Sequence[Mapping[str, Any]] | None = None
    unmeasured: str = ""
    slices: Sequence[ClassSlice] = ()
    gates: Sequence[Gate] = ()
    splits: Sequence[SplitStatistics] = ()
    corrupt: Sequence[tuple[str, str]] = ()
    corrupt_total: int = 0
    not_read: Sequence[str] = ()
    anomalies: Sequence[str] = ()
    baseline_statistics: str | None = None
    timings: Sequence[Timing] = ()
    lineage: Sequence[tuple[str, str]] = ()
    gallery: Gallery | None = None

"""What the page of a run is made from: plain data, filled in by whoever ran the pipeline."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from byol_tf.report.classes import ClassSlice
from byol_tf.report.gallery import Gallery


@dataclasses.dataclass(frozen=True)
class Gate:
    """One threshold that decided about the push.

    Attributes:
        name: what was measured, such as "accuracy" or "effective rank".
        value: as measured on this run's model.
        bound: the threshold.
        baseline: the last blessed model's value, if there was one.
        passed: whether the gate let the model through.
        explanation: what the measure means, in a sentence.
        direction: on which side of `bound` the value must be.
        fraction: whether the numbers are in [0, 1] and read best as percentages.
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
    """What is in one split; `height` and `width` are (min, median, max) in pixels."""

    name: str
    examples: int
    formats: Mapping[str, int] = dataclasses.field(default_factory=dict)
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    height: tuple[float, float, float] | None = None
    width: tuple[float, float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Timing:
    """Wall time of one component."""

    component: str
    state: Literal["ran", "cached", "failed"]
    seconds: float


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """One run. What is left at its default is said to be missing on the page.

    Attributes:
        started: ISO 8601.
        seconds: wall time of the whole run.
        labelled: whether the data has labels; without them label-free measures decide.
        version: of the model under `serving_path`, such as "1732412345".
        reasons: sentences: why the model was rejected, or notes.
        model: architecture, parameters (int), embedding_size, image_size, versions (dict).
        config: of the training, nested.
        loss_caption: Explanation of the method's loss; empty if unknown.
        history: a row an epoch: epoch, step, loss, lr, ema, projection_std, effective_rank and,
            where measured, online_accuracy and knn_accuracy.
        accuracy: a row an encoder, the trained one first, as byol-evaluate writes them: encoder,
            linear (top_1, top_5, interval, base_lr), knn (top_1, k).
        slices: accuracy by class; the row named "overall" is of all examples.
        corrupt: (key, reason) of the first corrupt files, of `corrupt_total`.
        anomalies: sentences of the validation of the data, drift included.
        baseline_statistics: the run that drift was measured against.
        lineage: (what, value) pairs.
    """

    pipeline_name: str
    run_id: str
    started: str
    seconds: float
    outcome: Literal["pushed", "unchanged", "rejected"]
    labelled: bool
    version: str | None = None
    serving_path: str | None = None
    reasons: Sequence[str] = ()
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    loss_caption: str = ""
    history: Sequence[Mapping[str, float]] = ()
    accuracy: Sequence[Mapping[str, Any]] | None = None
    slices: Sequence[ClassSlice] = ()
    gates: Sequence[Gate] = ()
    splits: Sequence[SplitStatistics] = ()
    corrupt: Sequence[tuple[str, str]] = ()
    corrupt_total: int = 0
    anomalies: Sequence[str] = ()
    baseline_statistics: str | None = None
    timings: Sequence[Timing] = ()
    lineage: Sequence[tuple[str, str]] = ()
    gallery: Gallery | None = None

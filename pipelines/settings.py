"""All that a run of the pipeline can be told; flags make it, `create_pipeline` reads it."""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

from byol_tf.errors import UserError

SEVERITIES = ("warning", "error", "never")
INFRA_VALIDATORS = ("none", "docker", "kubernetes")
RECORDS_SCHEMA = os.path.join(os.path.dirname(__file__), "records.pbtxt")


@dataclasses.dataclass(frozen=True)
class Settings:
    """One pipeline.

    Attributes:
        data_dir: images, on any file system that Beam knows.
        pipeline_root: artifacts, metadata, checkpoints.
        serving_model_dir: gets <model_name>/<version>.
        config: of `byol_tf.configs`, as a dict.
        name: of the pipeline, in its metadata.
        model_name: of the served model.
        input_splits: name → pattern below data_dir; empty for one split of everything.
        output_splits: name → hash buckets, where there is one input split.
        span: of {SPAN} in the patterns; None takes the newest.
        labels: `folders`, `none`, or the path of a CSV file.
        labelled: whether the data have labels.
        listing_digest: of the files' names, sizes and times.
        max_corrupt_fraction: of the images, in [0, 1].
        schema_file: a curated schema in place of the inferred one.
        records_schema_file: where the components find this package's records.pbtxt.
        stop_on: the least severity of an anomaly that stops the run, of `SEVERITIES`.
        max_drift: L-infinity distance (formats, labels) or Kolmogorov-Smirnov distance (sizes) to
            the statistics of the last run, in [0, 1].
        compare_with_last_run: whether drift is looked at; Kubeflow's resolvers cannot do it.
        shorter_side: pixels that larger images are reduced to.
        strategy: one of `byol_tf.choices.STRATEGIES`.
        views: random crops an image for the linear probe; 0 trains on centre crops.
        min_accuracy: of the linear probe on the eval split, in [0, 1].
        max_accuracy_loss: against the last blessed model, in [0, 1].
        min_spread: of unlabelled data's representations, in [0, 1].
        max_measure_loss: by how much, relative to the last blessed model, a label-free measure may
            be worse.
        embed_data_dir: images to embed with the blessed encoder.
        embed_listing_digest: of those images' files.
        infra_validator: one of `INFRA_VALIDATORS`; TFX's own, on a real TF Serving image.
        enable_cache: whether what has not changed is not run again.
        beam_args: handed to Beam as they are.
    """

    data_dir: str
    pipeline_root: str
    serving_model_dir: str
    config: Mapping[str, Any]
    name: str = "byol"
    model_name: str = "byol"
    input_splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    output_splits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    span: int | None = None
    labels: str = "folders"
    labelled: bool = True
    listing_digest: str = ""
    max_corrupt_fraction: float = 0.01
    schema_file: str | None = None
    records_schema_file: str = RECORDS_SCHEMA
    stop_on: str = "error"
    max_drift: float = 0.1
    compare_with_last_run: bool = True
    shorter_side: int = 512
    strategy: str = "auto"
    views: int = 0
    min_accuracy: float = 0.0
    max_accuracy_loss: float = 0.01
    min_spread: float = 0.1
    max_measure_loss: float = 0.25
    embed_data_dir: str | None = None
    embed_listing_digest: str = ""
    infra_validator: str = "none"
    enable_cache: bool = True
    beam_args: tuple[str, ...] = ()

    def __post_init__(self):
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,127}", self.name):
            raise UserError(
                f"the pipeline's name '{self.name}' cannot be used; give lower-case letters, "
                "digits and hyphens, at most 128."
            )
        if not re.fullmatch(r"\w[\w.-]*", self.model_name):
            raise UserError(
                f"the model's name '{self.model_name}' cannot be used; give letters, digits and "
                "underscores, and after the first also dots and hyphens."
            )
        for name, known in (("stop_on", SEVERITIES), ("infra_validator", INFRA_VALIDATORS)):
            value = getattr(self, name)
            if value not in known:
                raise UserError(f"{name} is '{value}'; give one of {', '.join(known)}.")
        splits = self.input_splits if len(self.input_splits) > 1 else self.output_splits
        if splits and not {"train", "eval"} <= set(splits):
            raise UserError(
                f"the splits are {', '.join(splits)}; the pipeline trains on 'train' and evaluates "
                "on 'eval': name them so."
            )
        if len(self.input_splits) > 1 and self.output_splits:
            raise UserError(
                "output splits divide one input split, and there are several; give only one kind."
            )
        for name in (
            "max_corrupt_fraction",
            "max_drift",
            "min_accuracy",
            "max_accuracy_loss",
            "min_spread",
            "max_measure_loss",
        ):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UserError(f"{name} is {value}; give a number in [0, 1].")
        if self.shorter_side < self.config["image_size"]:
            raise UserError(
                f"shorter_side {self.shorter_side} is below the encoder's image_size "
                f"{self.config['image_size']}; give at least that."
            )

    @property
    def metadata_path(self) -> str:
        """The SQLite file of ML Metadata."""
        return os.path.join(self.pipeline_root, "metadata.sqlite")

    @property
    def training_dir(self) -> str:
        """Checkpoints of training under way: outside of what TFX deletes when a component fails."""
        return os.path.join(self.pipeline_root, "training")

    @property
    def model_dir(self) -> str:
        """What a server is pointed at: the folder of versions."""
        return os.path.join(self.serving_model_dir, self.model_name)

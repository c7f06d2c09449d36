"""All settings of a pipeline run; made from flags, read by `create_pipeline`."""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

from byol_tf.errors import UserError

LABELS = ("auto", "folders", "none")  # Any other value is the path of a CSV file.
DEFAULT_SPLITS = {"train": 9, "eval": 1}
SEVERITIES = ("warning", "error", "never")
INFRA_VALIDATORS = ("none", "docker", "kubernetes")
RECORDS_SCHEMA = os.path.join(os.path.dirname(__file__), "records.pbtxt")


def canonical(path: str) -> str:
    """Returns one spelling of a local path, with links resolved; a remote path as it is."""
    return path.rstrip("/") if "://" in path else os.path.realpath(path)


LAST = "last"  # `config.encoder.weights` for the encoder that was pushed last.


def is_path(weights: str) -> bool:
    """Whether `config.encoder.weights` is the path of a file or folder."""
    return weights not in (LAST, "imagenet")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of one pipeline.

    The flags of `runners.flag_settings` take their defaults from the fields.

    Attributes:
        data_dir: Folder of the images, on any file system that Beam supports.
        pipeline_root: Folder of artifacts, metadata and checkpoints.
        serving_model_dir: Folder that receives <model_name>/<version>.
        config: Training config of `byol_tf.configs`, as a dict.
        name: Name of the pipeline in ML Metadata.
        model_name: Name of the served model.
        input_splits: Split name -> pattern below data_dir; empty for one split of all files.
        output_splits: Split name -> number of hash buckets, to divide a single input split.
        span: Value of {SPAN} in the patterns; None takes the newest.
        labels: One of `LABELS`, or the path of a CSV file: `auto` takes subfolders as classes for
            reports only; `folders` and a CSV file let accuracy decide.
        labelled: Whether the data has labels to measure accuracy with.
        listing_digest: Digest of the files' names, sizes and times, and of a CSV file's labels.
        max_corrupt_fraction: Largest allowed fraction of corrupt images, in [0, 1].
        schema_file: Path of a curated schema to use instead of the inferred one.
        records_schema_file: Path at which the components find this package's records.pbtxt.
        stop_on: Lowest severity of an anomaly that stops the run, one of `SEVERITIES`.
        max_drift: Largest allowed L-infinity distance (formats, labels) or Kolmogorov-Smirnov
            distance (sizes) to the statistics of the last run, in [0, 1]; its square holds for
            channels and bits.
        compare_with_last_run: Whether to measure drift; Kubeflow's resolvers do not support it.
        shorter_side: Shorter side in pixels to which larger images are reduced.
        strategy: Distribution of the training, one of `byol_tf.choices.STRATEGIES`.
        views: Random crops per image for the linear probe; 0 trains on centre crops.
        min_accuracy: Lowest accuracy of the linear probe on the eval split, in [0, 1].
        max_accuracy_loss: Largest loss of accuracy to the last blessed model, in [0, 1].
        min_spread: Lowest std of the normalised representations of unlabelled data, times √D, in
            [0, 1].
        max_measure_loss: Largest loss of the rotation probe's accuracy on unlabelled data to the
            last blessed model, in [0, 1].
        embed_data_dir: Folder of images to embed with the blessed encoder.
        embed_listing_digest: Digest of the names, sizes and times of those images.
        weights_digest: Digest of the file or folder of `weights`.
        infra_validator: One of `INFRA_VALIDATORS`: `none` for ServingCheck, or where TFX's
            InfraValidator runs TF Serving's image.
        enable_cache: Whether to reuse the outputs of components whose inputs have not changed.
        beam_args: Command-line arguments passed to Beam.
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
    labels: str = "auto"
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
    max_measure_loss: float = 0.02
    embed_data_dir: str | None = None
    embed_listing_digest: str = ""
    weights_digest: str = ""
    infra_validator: str = "none"
    enable_cache: bool = True
    beam_args: tuple[str, ...] = ()

    def __post_init__(self):
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,127}", self.name):
            raise UserError(
                f"the pipeline's name '{self.name}' is not valid; give at most 128 lower-case "
                "letters, digits and hyphens, not starting with a hyphen."
            )
        if not re.fullmatch(r"\w[\w.-]*", self.model_name):
            raise UserError(
                f"the model's name '{self.model_name}' is not valid; give letters, digits and "
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
                "on 'eval': use these names."
            )
        if len(self.input_splits) > 1 and self.output_splits:
            raise UserError(
                "output splits divide a single input split, and there are several input splits; "
                "give only one of the two."
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
                f"{self.config['image_size']}; give at least the image_size."
            )

    @property
    def weights(self) -> str | None:
        """`config.encoder.weights`: a path, `imagenet`, or `last`, the encoder pushed last."""
        return self.config.get("encoder", {}).get("weights")

    @property
    def channels(self) -> int:
        """Number of channels of the images; 3 in configs from before there were others."""
        return self.config.get("channels", 3)

    @property
    def bit_depth(self) -> int:
        """Bits of each channel, 8 or 16."""
        return self.config.get("bit_depth", 8)

    @property
    def accuracy_decides(self) -> bool:
        """Whether accuracy decides if a model is pushed; otherwise label-free measures do."""
        return self.labelled and self.labels not in ("auto", "none")

    @property
    def metadata_path(self) -> str:
        """Path of ML Metadata's SQLite file."""
        return os.path.join(self.pipeline_root, "metadata.sqlite")

    @property
    def training_dir(self) -> str:
        """Folder of unfinished trainings, outside of what TFX deletes when a component fails."""
        return os.path.join(self.pipeline_root, "training")

    @property
    def model_dir(self) -> str:
        """Folder of the model's versions, which a server watches."""
        return os.path.join(self.serving_model_dir, self.model_name)

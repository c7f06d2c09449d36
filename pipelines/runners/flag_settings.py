"""Flags -> Settings, the same for every runner. Imports no TensorFlow until flags are parsed."""

import collections
from collections.abc import Sequence
from typing import TYPE_CHECKING

import ml_collections
from absl import flags

from byol_tf.choices import STRATEGIES
from byol_tf.cli import recipe
from byol_tf.errors import UserError
from pipelines.settings import INFRA_VALIDATORS, SEVERITIES, Settings

if TYPE_CHECKING:
    from pipelines.images.listing import File

# Otherwise `--help` would list the flags as this module's and not as the command's.
flags.disclaim_key_flags()
_FLAGS = flags.FLAGS
_config: flags.FlagHolder


def define() -> None:
    """Defines the flags; `resolved_config` and `from_flags` read them."""
    global _config
    _config = recipe.define_config()
    flags.DEFINE_string(
        "data_dir",
        None,
        "Folder of the images: local, or gs://, s3:// or hdfs:// if the extra of Apache Beam is "
        "installed. It may contain TFRecords of tf.Example instead.",
        required=True,
    )
    flags.DEFINE_string(
        "pipeline_root",
        None,
        "Folder for artifacts, metadata, checkpoints and reports.",
        required=True,
    )
    flags.DEFINE_string(
        "serving_model_dir",
        None,
        "Folder that model servers watch; models are pushed to MODEL_NAME/VERSION in it.",
        required=True,
    )
    flags.DEFINE_string("pipeline_name", Settings.name, "Name of this pipeline in ML Metadata.")
    flags.DEFINE_string("model_name", Settings.model_name, "Name of the served model.")
    flags.DEFINE_list(
        "input_splits",
        [],
        "NAME=PATTERN, separated by commas: the files of each split, for example "
        "train=train/**,eval=test/**; * stays within a folder, ** includes subfolders. {SPAN} and "
        "{VERSION} work as in TFX. By default all files are one split, divided by --output_splits.",
    )
    flags.DEFINE_list(
        "output_splits",
        [],
        "NAME=BUCKETS, separated by commas: how to divide a single input split, by a hash of each "
        "image's path; by default train=9,eval=1.",
    )
    flags.DEFINE_integer("span", Settings.span, "Value of {SPAN}; by default the newest.")
    flags.DEFINE_string(
        "labels",
        Settings.labels,
        "folders: each subfolder is a class. none: there are no labels. Otherwise the path of a "
        "CSV file with the columns path (relative to --data_dir) and label.",
    )
    flags.DEFINE_float(
        "max_corrupt_fraction",
        Settings.max_corrupt_fraction,
        "Largest fraction of images that may be corrupt; corrupt images are skipped.",
        0,
        1,
    )
    flags.DEFINE_string(
        "schema_file",
        Settings.schema_file,
        "Curated schema (text proto) to validate the data against; by default it is inferred.",
    )
    flags.DEFINE_enum(
        "stop_on",
        Settings.stop_on,
        SEVERITIES,
        "Lowest severity of a data anomaly that stops the run before training.",
    )
    flags.DEFINE_float(
        "max_drift",
        Settings.max_drift,
        "Largest distance of formats and labels (L-infinity) and of sizes (Kolmogorov-Smirnov) "
        "from the last run.",
        0,
        1,
    )
    flags.DEFINE_integer(
        "shorter_side",
        Settings.shorter_side,
        "Shorter side in pixels to which larger images are reduced.",
        1,
    )
    flags.DEFINE_enum("strategy", Settings.strategy, STRATEGIES, "How to distribute training.")
    flags.DEFINE_integer(
        "views",
        Settings.views,
        "Random crops per image for the linear probe; 0 trains on centre crops.",
        0,
    )
    flags.DEFINE_float(
        "min_accuracy",
        None,
        "Lowest accuracy of the linear probe with which a model is pushed; by default 0.05 above "
        "the fraction of the most common class.",
        0,
        1,
    )
    flags.DEFINE_float(
        "max_accuracy_loss",
        Settings.max_accuracy_loss,
        "Largest loss of accuracy, compared with the last blessed model.",
        0,
        1,
    )
    flags.DEFINE_float(
        "min_spread",
        Settings.min_spread,
        "Without labels: lowest standard deviation of the normalised representations "
        "(0 collapsed, 1 even).",
        0,
        1,
    )
    flags.DEFINE_float(
        "max_measure_loss",
        Settings.max_measure_loss,
        "Without labels: largest loss of accuracy in telling how images are turned, compared with "
        "the last blessed model; a loss that may be chance is allowed.",
        0,
        1,
    )
    flags.DEFINE_string(
        "embed_data_dir",
        Settings.embed_data_dir,
        "Folder of images to embed with the blessed encoder.",
    )
    flags.DEFINE_enum(
        "infra_validator",
        Settings.infra_validator,
        INFRA_VALIDATORS,
        "Where to validate on the real TF Serving image; none uses ServingCheck instead.",
    )
    flags.DEFINE_bool(
        "cache", Settings.enable_cache, "Whether to skip components whose inputs have not changed."
    )


def resolved_config() -> ml_collections.ConfigDict:
    """Returns the config that `--config` and its overrides give."""
    return recipe.resolve_config(_config)


def from_flags(
    config: ml_collections.ConfigDict, beam_args: Sequence[str], listed: bool = True
) -> Settings:
    """Returns the Settings that the flags give.

    Args:
        config: Result of `resolved_config`.
        beam_args: Command-line arguments for Beam.
        listed: Whether to list the data folder, to find labels and changes. If not, the data has
            labels unless --labels=none, the digests stay empty, and drift is not measured.

    Raises:
        UserError: A flag or the folder is not valid.
    """
    input_splits = _pairs("input_splits")
    facts = _listed_facts(input_splits) if listed else _told_facts()
    return Settings(
        data_dir=_FLAGS.data_dir.rstrip("/"),
        pipeline_root=_FLAGS.pipeline_root,
        serving_model_dir=_FLAGS.serving_model_dir,
        config=config.to_dict(),
        name=_FLAGS.pipeline_name,
        model_name=_FLAGS.model_name,
        input_splits=input_splits,
        output_splits={
            name: _whole(name, value) for name, value in _pairs("output_splits").items()
        },
        span=_FLAGS.span,
        labels=_FLAGS.labels,
        max_corrupt_fraction=_FLAGS.max_corrupt_fraction,
        schema_file=_FLAGS.schema_file,
        stop_on=_FLAGS.stop_on,
        max_drift=_FLAGS.max_drift,
        shorter_side=_FLAGS.shorter_side,
        strategy=_FLAGS.strategy,
        views=_FLAGS.views,
        max_accuracy_loss=_FLAGS.max_accuracy_loss,
        min_spread=_FLAGS.min_spread,
        max_measure_loss=_FLAGS.max_measure_loss,
        embed_data_dir=_FLAGS.embed_data_dir,
        infra_validator=_FLAGS.infra_validator,
        enable_cache=_FLAGS.cache,
        beam_args=tuple(beam_args),
        **facts,
    )


def _told_facts() -> dict:
    """Returns the settings about the data that the flags alone give."""
    labelled = _FLAGS.labels != "none"
    if labelled and _FLAGS.min_accuracy is None:
        raise UserError(
            "--min_accuracy is missing, and the data is not read here to choose one; give it, or "
            "--labels=none."
        )
    return {
        "labelled": labelled,
        "min_accuracy": _FLAGS.min_accuracy or 0.0,
        "compare_with_last_run": False,
    }


def _listed_facts(input_splits: dict[str, str]) -> dict:
    """Returns the settings about the data that follow from a listing of the data folder."""
    from pipelines.images import listing

    patterns = input_splits or {"all": "**"}
    if any("{" in pattern for pattern in patterns.values()):
        patterns = _with_span(patterns)
    files = {
        name: listing.find_files(_FLAGS.data_dir, pattern) for name, pattern in patterns.items()
    }
    images = [file for found in files.values() for file in found]
    if not images:
        raise UserError(
            f"'{_FLAGS.data_dir}' holds no images (jpg, jpeg, png, bmp, gif) and no TFRecords that "
            "match; correct --data_dir or --input_splits."
        )
    labelled, share = _label_facts(files, images)
    min_accuracy = _FLAGS.min_accuracy
    if min_accuracy is None:
        min_accuracy = min(share + 0.05, 0.99)
    embedded = listing.find_files(_FLAGS.embed_data_dir, "**") if _FLAGS.embed_data_dir else []
    return {
        "labelled": labelled,
        "min_accuracy": min_accuracy,
        "listing_digest": listing.digest(images),
        "embed_listing_digest": listing.digest(embedded),
    }


def _with_span(patterns: dict[str, str]) -> dict[str, str]:
    """Returns the patterns with the {SPAN} and {VERSION} that TFX will choose."""
    from tfx import v1 as tfx
    from tfx.components.example_gen.input_processor import FileBasedInputProcessor

    span_range = None
    if _FLAGS.span is not None:
        span = tfx.proto.StaticRange(start_span_number=_FLAGS.span, end_span_number=_FLAGS.span)
        span_range = tfx.proto.RangeConfig(static_range=span)
    splits = [
        tfx.proto.Input.Split(name=name, pattern=pattern) for name, pattern in patterns.items()
    ]
    processor = FileBasedInputProcessor(_FLAGS.data_dir, splits, span_range)
    try:
        span, version = processor.resolve_span_and_version()
    except ValueError as error:
        raise UserError(
            f"no span in '{_FLAGS.data_dir}' fits --input_splits ({error}); correct the pattern or "
            "--span."
        ) from error
    return {
        name: processor.get_pattern_for_span_version(pattern, span, version)
        for name, pattern in patterns.items()
    }


def _label_facts(files: dict[str, list["File"]], images: list["File"]) -> tuple[bool, float]:
    """Returns whether there are labels, and the fraction of the most common class."""
    from pipelines.images import listing

    if any(not file.is_image for file in images):
        return _FLAGS.labels != "none", 0.0  # TFRecords contain the labels; they are not read here.
    classes = listing.class_names(files, _FLAGS.labels, _FLAGS.data_dir)
    counts = collections.Counter(classes.values())
    if len(counts) == 1:
        (name,) = counts
        raise UserError(
            f"all images of '{_FLAGS.data_dir}' are of one class ('{name}'), and accuracy needs "
            "two; give the folder above, or --labels=none."
        )
    return bool(classes), max(counts.values(), default=0) / len(images)


def _pairs(flag: str) -> dict[str, str]:
    """Returns the NAME=VALUE,... of a flag as a dict."""
    pairs: dict[str, str] = {}
    for item in _FLAGS[flag].value:
        name, equals, value = item.partition("=")
        if not (name and equals and value) or name in pairs:
            raise UserError(f"--{flag} has '{item}'; give NAME=VALUE, each name once.")
        pairs[name] = value
    return pairs


def _whole(name: str, value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise UserError(
            f"--output_splits gives {name} '{value}' buckets; give a whole number of at least 1."
        )
    return int(value)

"""Flags -> Settings, the same for every runner. Imports no TensorFlow until flags are parsed."""

import importlib.util
from collections.abc import Sequence

import ml_collections
from absl import flags

from byol_tf.choices import STRATEGIES
from byol_tf.cli import recipe
from byol_tf.errors import UserError
from pipelines.runners.data_folder import DataFolder, list_folder
from pipelines.settings import INFRA_VALIDATORS, LABELS, SEVERITIES, Settings, canonical, is_path

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
        "auto: subfolders, if there are any, are classes in the reports, and label-free measures "
        "decide whether a model is pushed. folders: each subfolder is a class, and accuracy "
        "decides. The path of a CSV file with the columns path (relative to --data_dir) and label: "
        "accuracy decides. none: labels are ignored.",
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
        "Lowest severity of a data anomaly that stops the run before training. Drift is an error "
        "if --labels asks for a gate on accuracy, and a warning otherwise.",
    )
    flags.DEFINE_float(
        "max_drift",
        Settings.max_drift,
        "Largest distance of formats and labels (L-infinity) and of sizes (Kolmogorov-Smirnov) "
        "from the last run; of channels and bits, its square.",
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
        "With --labels=folders or a CSV file: lowest accuracy of the linear probe with which a "
        "model is pushed; by default 0.05 above the fraction of the most common class.",
        0,
        1,
    )
    flags.DEFINE_float(
        "max_accuracy_loss",
        Settings.max_accuracy_loss,
        "With --labels=folders or a CSV file: largest loss of accuracy, compared with the last "
        "blessed model.",
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


def require_tfx() -> None:
    """Raises `UserError` where TFX is not installed, as on the current stack without glibc 2.39."""
    if importlib.util.find_spec("tfx") is None:
        raise UserError(
            "the pipeline needs TFX, which is not installed here; run pip install "
            "'byol_tf[pipeline]' where glibc is 2.39 or later, or use the classic stack "
            "(make STACK=classic venv)."
        )


def resolved_config() -> ml_collections.ConfigDict:
    """Returns the config that `--config` and its overrides give."""
    return recipe.resolve_config(_config)


def data_folder() -> DataFolder:
    """Lists the folder that the flags name.

    Raises:
        UserError: A flag or the folder is not valid.
    """
    return list_folder(
        _FLAGS.data_dir, _FLAGS.labels, _pairs("input_splits"), _output_splits(), _FLAGS.span
    )


def from_flags(
    config: ml_collections.ConfigDict, beam_args: Sequence[str], folder: DataFolder | None
) -> Settings:
    """Returns the Settings that the flags give.

    Args:
        config: Result of `resolved_config`.
        beam_args: Command-line arguments for Beam.
        folder: Result of `data_folder`. If None, paths are left as they are, for another machine;
            accuracy is measured only if --labels asks for it, the digests stay empty, and drift is
            not measured.

    Raises:
        UserError: A flag or a folder is not valid.
    """
    if _FLAGS.labels in ("auto", "none"):
        for name in ("min_accuracy", "max_accuracy_loss"):
            if _FLAGS[name].present:
                raise UserError(
                    f"--{name} lets accuracy decide, which needs labels; give --labels=folders or "
                    f"a CSV file, or omit --{name}."
                )
    here = canonical if folder else str
    weights_digest = ""
    if folder:
        from pipelines.runners.weights_digest import weights_digest as digest_of

        if config.encoder.get("weights") and is_path(config.encoder.weights):
            config.encoder.weights = here(config.encoder.weights)
            weights_digest = digest_of(config.encoder.weights)
    return Settings(
        data_dir=here(_FLAGS.data_dir.rstrip("/")),
        pipeline_root=here(_FLAGS.pipeline_root),
        serving_model_dir=here(_FLAGS.serving_model_dir),
        config=config.to_dict(),
        name=_FLAGS.pipeline_name,
        model_name=_FLAGS.model_name,
        input_splits=_pairs("input_splits"),
        output_splits=_output_splits(),
        span=_FLAGS.span,
        labels=_FLAGS.labels if _FLAGS.labels in LABELS else here(_FLAGS.labels),
        max_corrupt_fraction=_FLAGS.max_corrupt_fraction,
        schema_file=_FLAGS.schema_file and here(_FLAGS.schema_file),
        stop_on=_FLAGS.stop_on,
        max_drift=_FLAGS.max_drift,
        shorter_side=_FLAGS.shorter_side,
        strategy=_FLAGS.strategy,
        views=_FLAGS.views,
        max_accuracy_loss=_FLAGS.max_accuracy_loss,
        min_spread=_FLAGS.min_spread,
        max_measure_loss=_FLAGS.max_measure_loss,
        embed_data_dir=_FLAGS.embed_data_dir and here(_FLAGS.embed_data_dir),
        weights_digest=weights_digest,
        infra_validator=_FLAGS.infra_validator,
        enable_cache=_FLAGS.cache,
        beam_args=tuple(beam_args),
        **(_listed_facts(folder) if folder else _told_facts()),
    )


def _told_facts() -> dict:
    """Returns the settings about the data that the flags alone give."""
    labelled = _FLAGS.labels not in ("auto", "none")
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


def _listed_facts(folder: DataFolder) -> dict:
    """Returns the settings about the data that follow from a listing of the data folder."""
    from pipelines.images import listing

    min_accuracy = _FLAGS.min_accuracy
    if min_accuracy is None:
        min_accuracy = min(folder.majority + 0.05, 0.99)
    embedded = listing.find_files(_FLAGS.embed_data_dir, "**") if _FLAGS.embed_data_dir else []
    return {
        "labelled": folder.labelled,
        "min_accuracy": min_accuracy,
        "listing_digest": folder.digest,
        "embed_listing_digest": listing.digest(embedded),
    }


def _pairs(flag: str) -> dict[str, str]:
    """Returns the NAME=VALUE,... of a flag as a dict."""
    pairs: dict[str, str] = {}
    for item in _FLAGS[flag].value:
        name, equals, value = item.partition("=")
        if not (name and equals and value) or name in pairs:
            raise UserError(f"--{flag} has '{item}'; give NAME=VALUE, each name once.")
        pairs[name] = value
    return pairs


def _output_splits() -> dict[str, int]:
    return {name: _whole(name, value) for name, value in _pairs("output_splits").items()}


def _whole(name: str, value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise UserError(
            f"--output_splits gives {name} '{value}' buckets; give a whole number of at least 1."
        )
    return int(value)

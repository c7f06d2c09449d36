"""Flags → Settings, the same for every runner. No TensorFlow until flags are parsed."""

from absl import flags

from byol_tf.choices import STRATEGIES
from byol_tf.cli import recipe
from byol_tf.errors import UserError

# Else `--help` would count the flags as this module's and not as the command's.
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
        "The images: a folder (local, or gs://, s3://, hdfs:// where Beam's extra is installed), or one "
        "of TFRecords of tf.Example.",
        required=True,
    )
    flags.DEFINE_string(
        "pipeline_root",
        None,
        "Where artifacts, metadata, checkpoints and the report go.",
        required=True,
    )
    flags.DEFINE_string(
        "serving_model_dir",
        None,
        "What model servers watch; gets MODEL_NAME/VERSION.",
        required=True,
    )
    flags.DEFINE_string("pipeline_name", "byol", "Of this pipeline, in its metadata.")
    flags.DEFINE_string("model_name", "byol", "Of the served model.")
    flags.DEFINE_list(
        "input_splits",
        [],
        "NAME=PATTERN, separated by commas: which files are in which split, such as "
        "train=train/**,eval=test/**; * stays within a folder, ** does not. With {SPAN} and {VERSION} as in "
        "TFX. By default one split of everything, divided by --output_splits.",
    )
    flags.DEFINE_list(
        "output_splits",
        [],
        "NAME=BUCKETS: how one input split is divided, by a hash of each image's path; by default "
        "train=9,eval=1.",
    )
    flags.DEFINE_integer("span", None, "Which {SPAN}; by default the newest.")
    flags.DEFINE_string(
        "labels",
        "folders",
        "folders: each subfolder is a class. none: there are no labels. Else a CSV file with the columns "
        "path (below --data_dir) and label.",
    )
    flags.DEFINE_float(
        "max_corrupt_fraction",
        0.01,
        "Images that cannot be decoded are skipped, up to this part.",
        0,
        1,
    )
    flags.DEFINE_string(
        "schema_file",
        None,
        "A curated schema (text proto) to validate the data by; inferred by default.",
    )
    flags.DEFINE_enum(
        "stop_on",
        "error",
        ("warning", "error", "never"),
        "The least severity of a data anomaly that stops the run before training.",
    )
    flags.DEFINE_float(
        "max_drift",
        0.1,
        "How far formats, labels (L-infinity) and sizes (Kolmogorov-Smirnov) may move from the last run.",
        0,
        1,
    )
    flags.DEFINE_integer(
        "shorter_side", 512, "Larger images are reduced to this shorter side, in pixels.", 1
    )
    flags.DEFINE_enum(
        "strategy",
        "auto",
        STRATEGIES,
        "How to distribute training.",
    )
    flags.DEFINE_integer(
        "views", 0, "Random crops an image for the linear probe; 0 trains on centre crops.", 0
    )
    flags.DEFINE_float(
        "min_accuracy",
        None,
        "A model whose linear probe is below is not pushed; by default 0.05 above the part of the "
        "commonest class.",
        0,
        1,
    )
    flags.DEFINE_float(
        "max_accuracy_loss", 0.01, "How much accuracy may be lost to the last blessed model.", 0, 1
    )
    flags.DEFINE_float(
        "min_spread",
        0.1,
        "Without labels: the least std of normalised representations (0 collapsed, 1 even).",
        0,
        1,
    )
    flags.DEFINE_float(
        "max_measure_loss",
        0.25,
        "Without labels: by how much, relative to the last blessed model, a measure may be worse.",
        0,
        1,
    )
    flags.DEFINE_string("embed_data_dir", None, "Images to embed with the blessed encoder.")
    flags.DEFINE_enum(
        "infra_validator",
        "none",
        ("none", "docker", "kubernetes"),
        "Validate on the real TF Serving image in place of ServingCheck.",
    )
    flags.DEFINE_bool("cache", True, "Whether what has not changed is left as it is.")


def resolved_config():
    """The config that `--config` and its overrides give."""
    return recipe.resolve_config(_config)


def from_flags(config, beam_args: list[str], listed: bool = True):
    """The Settings of the flags.

    Args:
        config: of `resolved_config`.
        beam_args: for Beam.
        listed: whether to look at the data folder, for labels and what is new in it. Else the data
            have labels unless --labels=none, the digests stay empty, and drift is not looked at.

    Raises:
        UserError: a flag or the folder is bad.
    """
    from pipelines.settings import Settings

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
    """What the flags say of the data."""
    labelled = _FLAGS.labels != "none"
    if labelled and _FLAGS.min_accuracy is None:
        raise UserError(
            "--min_accuracy is missing, and the data are not looked at here to choose one; give "
            "it, or --labels=none."
        )
    return {
        "labelled": labelled,
        "min_accuracy": _FLAGS.min_accuracy or 0.0,
        "compare_with_last_run": False,
    }


def _listed_facts(input_splits: dict[str, str]) -> dict:
    """What the data folder says."""
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
            f"'{_FLAGS.data_dir}' holds no images (jpg, jpeg, png, bmp, gif) and no TFRecords that match; "
            "correct --data_dir or --input_splits."
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
    """The patterns with the {SPAN} and {VERSION} that TFX will choose."""
    from tfx.components.example_gen.input_processor import FileBasedInputProcessor
    from tfx.proto import example_gen_pb2, range_config_pb2

    span_range = None
    if _FLAGS.span is not None:
        span = range_config_pb2.StaticRange(
            start_span_number=_FLAGS.span, end_span_number=_FLAGS.span
        )
        span_range = range_config_pb2.RangeConfig(static_range=span)
    splits = [
        example_gen_pb2.Input.Split(name=name, pattern=pattern)
        for name, pattern in patterns.items()
    ]
    processor = FileBasedInputProcessor(_FLAGS.data_dir, splits, span_range)
    try:
        span, version = processor.resolve_span_and_version()
    except ValueError as error:
        raise UserError(
            f"no span in '{_FLAGS.data_dir}' fits --input_splits ({error}); correct the pattern or --span."
        ) from error
    return {
        name: processor.get_pattern_for_span_version(pattern, span, version)
        for name, pattern in patterns.items()
    }


def _label_facts(files, images) -> tuple[bool, float]:
    """Whether there are labels, and the share of the commonest class."""
    import collections

    from pipelines.images import listing

    if any(not file.is_image for file in images):
        return _FLAGS.labels != "none", 0.0  # They are inside.
    classes = listing.class_names(files, _FLAGS.labels, _FLAGS.data_dir)
    counts = collections.Counter(classes.values())
    if len(counts) == 1:
        (name,) = counts
        raise UserError(
            f"all images of '{_FLAGS.data_dir}' are of one class ('{name}'), and accuracy needs two; give "
            "the folder above, or --labels=none."
        )
    return bool(classes), max(counts.values(), default=0) / len(images)


def _pairs(flag: str) -> dict[str, str]:
    """NAME=VALUE,... as a dict."""
    pairs = {}
    for item in _FLAGS[flag].value:
        name, equals, value = item.partition("=")
        if not (name and equals and value) or name in pairs:
            raise UserError(f"--{flag} has '{item}'; give NAME=VALUE, each name once.")
        pairs[name] = value
    return pairs


def _whole(name: str, value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise UserError(
            f"--output_splits gives {name} '{value}' buckets; give a whole number from 1."
        )
    return int(value)

"""What a listing of the data folder says before an image is read: splits, labels, changes."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from byol_tf.errors import UserError
from pipelines.settings import DEFAULT_SPLITS, LABELS

if TYPE_CHECKING:
    from pipelines.images.listing import File

# LinearProbe holds out a tenth of these to choose its learning rate, and needs one image for it.
_LEAST_IN_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class DataFolder:
    """A data folder by its listing.

    Attributes:
        images: Image files by the split that they will be in.
        records: TFRecord files; their examples are not counted.
        labelled: Whether accuracy can be measured, and `labels` does not forbid it.
        majority: Fraction of the images in the most common class; 0 if unknown.
        digest: Digest of the files' keys, sizes and times, and of the classes in a CSV file.
        found: Sentence for the user: how many images, and what is done with their labels.
        unread: Sentences about what lies there and is not read.
    """

    images: Mapping[str, Sequence["File"]]
    records: Sequence["File"]
    labelled: bool
    majority: float
    digest: str
    found: str
    unread: list[str]


def list_folder(
    data_dir: str,
    labels: str,
    input_splits: Mapping[str, str],
    output_splits: Mapping[str, int],
    span: int | None,
) -> DataFolder:
    """Lists a data folder; the arguments are the fields of `Settings` with these names.

    Raises:
        UserError: There are no images, or accuracy should decide and cannot be measured.
    """
    from byol_tf.sources.unread import Unread
    from pipelines.images import listing

    patterns = dict(input_splits) or {"all": "**"}
    if any("{" in pattern for pattern in patterns.values()):
        patterns = _with_span(data_dir, patterns, span)
    unread = Unread()
    files = {
        name: listing.find_files(data_dir, pattern, unread) for name, pattern in patterns.items()
    }
    everything = [file for listed in files.values() for file in listed]
    if not everything:
        kinds = ", ".join(suffix[1:] for suffix in listing.IMAGE_EXTENSIONS)
        raise UserError(
            f"'{data_dir}' holds no images ({kinds}) and no TFRecords that match; correct "
            "--data_dir or --input_splits."
        )
    buckets = dict(output_splits) or (DEFAULT_SPLITS if len(patterns) == 1 else {})
    images: dict[str, list[File]] = {name: [] for name in buckets or patterns}
    for name, listed in files.items():
        for file in filter(lambda file: file.is_image, listed):
            images[listing.split_of(file.key, buckets) if buckets else name].append(file)
    records = [file for file in everything if not file.is_image]
    if records:  # They contain the labels, which are not read here.
        labelled, majority = labels not in ("auto", "none"), 0.0
        found = f"{len(records)} TFRecord files"
        if labels == "auto":
            found += "; labels in them are not used, unless you give --labels=folders"
    else:
        asked = "folders" if labels == "auto" else labels
        classes = listing.class_names(files, asked, data_dir)
        labelled, found = _labels(images, classes, labels, data_dir)
        largest = max(collections.Counter(classes.values()).values(), default=0)
        majority = largest / len(everything)
    told = {} if labels in LABELS else listing.class_names(files, labels, data_dir)
    digest = listing.digest(everything, told)
    return DataFolder(images, records, labelled, majority, digest, found, unread.sentences())


def _labels(
    images: Mapping[str, Sequence["File"]], classes: Mapping[str, str], labels: str, data_dir: str
) -> tuple[bool, str]:
    """Returns whether accuracy is measured, and the sentence about images and labels."""
    total = sum(map(len, images.values()))
    found = f"{total} image{'' if total == 1 else 's'}"
    if labels == "none":
        return False, f"{found}; labels are ignored, and label-free measures decide"
    if not classes and labels == "auto":
        return False, f"{found} without labels; label-free measures decide"
    problem = _unmeasurable(images, classes) if classes else "some images are in no subfolder"
    if labels != "auto":
        if problem:
            raise UserError(
                f"accuracy cannot decide on '{data_dir}', as --labels={labels} asks: {problem}; "
                "change the data, or give --labels=auto or --labels=none."
            )
        return True, f"{found} in {len(set(classes.values()))} classes; accuracy decides"
    folders = len(set(classes.values()))
    found += f" in {folders} subfolder{'' if folders == 1 else 's'}"
    if problem:
        return False, f"{found}; no accuracy is reported, because {problem}"
    return True, (
        f"{found}: taken as classes for reports; --labels=folders to gate on them, --labels=none "
        "to ignore them"
    )


def _unmeasurable(images: Mapping[str, Sequence["File"]], classes: Mapping[str, str]) -> str | None:
    """Returns why LinearProbe could not measure accuracy on these classes, if so."""
    if len(set(classes.values())) == 1:
        return f"all images are of one class ('{next(iter(classes.values()))}')"
    train, test = (
        collections.Counter(classes[file.key] for file in images[split])
        for split in ("train", "eval")
    )
    unknown = sorted(set(test) - set(train))
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        return f"the split train has no image of the class '{unknown[0]}'{more}"
    if len(train) < 2:
        return "the split train has images of one class only"
    if sum(count for count in train.values() if count > 1) < _LEAST_IN_CLASSES:
        return (
            f"the split train has fewer than {_LEAST_IN_CLASSES} images in classes of two or more"
        )
    return None


def _with_span(data_dir: str, patterns: Mapping[str, str], span: int | None) -> dict[str, str]:
    """Returns the patterns with the {SPAN} and {VERSION} that TFX will choose."""
    from tfx import v1 as tfx

    from pipelines.components.image_example_gen.driver import InputProcessor

    span_range = None
    if span is not None:
        static = tfx.proto.StaticRange(start_span_number=span, end_span_number=span)
        span_range = tfx.proto.RangeConfig(static_range=static)
    splits = [
        tfx.proto.Input.Split(name=name, pattern=pattern) for name, pattern in patterns.items()
    ]
    processor = InputProcessor(data_dir, splits, span_range)
    try:
        chosen, version = processor.resolve_span_and_version()
    except ValueError as error:
        raise UserError(
            f"no span in '{data_dir}' fits --input_splits ({error}); correct the pattern or --span."
        ) from error
    return {
        name: processor.get_pattern_for_span_version(pattern, chosen, version)
        for name, pattern in patterns.items()
    }

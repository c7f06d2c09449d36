"""Lists images and their labels, and assigns each image to a shard of a split.

A listing is small (one path and label per image), so it is made in one process; Beam distributes
the reading of the images. Splits and shards depend on the paths only: the same images give the same
records in the same order with every runner.
"""

import bisect
import collections
import csv
import dataclasses
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence

from absl import logging
from apache_beam.io.filesystem import FileSystem
from apache_beam.io.filesystems import FileSystems

from byol_tf.errors import UserError
from byol_tf.sources.folder import IMAGE_EXTENSIONS
from byol_tf.sources.unread import Unread
from byol_tf.sources.walk import files_below

# A worker reads and writes one shard at a time. Shards are large enough to be read fast, and small
# enough that training interleaves several.
_SHARD_BYTES = 64 << 20
_SHARD_EXAMPLES = 2048


@dataclasses.dataclass(frozen=True)
class File:
    """A file of the data folder.

    Attributes:
        path: Path to open.
        key: Path below the data folder, which names the file everywhere.
        group: Name of the first folder below the fixed part of the pattern, or "" if there is none;
            the class, if subfolders are classes.
        size: Size in bytes.
        modified: Time of the last change, seconds since 1970.
    """

    path: str
    key: str
    group: str
    size: int
    modified: float

    @property
    def is_image(self) -> bool:
        """Whether this is an image file; all other files are TFRecords."""
        return self.key.lower().endswith(IMAGE_EXTENSIONS)


@dataclasses.dataclass(frozen=True)
class Shard:
    """The work of one element of the Beam pipeline: files in, a TFRecord file out.

    Attributes:
        split: Name of the split.
        index, count: Number of this shard, and number of shards in the split.
        images: Tuples (path, key, label, label_text).
        records: Path of a TFRecord file to take the examples from, instead of images.
        buckets: Buckets for `split_of`, if `records` is divided by the hashes of its keys.
    """

    split: str
    index: int
    count: int
    images: tuple[tuple[str, str, int, str], ...] = ()
    records: str | None = None
    buckets: Mapping[str, int] | None = None

    @property
    def name(self) -> str:
        """File name, in the style of TFX's example generators."""
        return f"data_tfrecord-{self.index:05d}-of-{self.count:05d}.gz"

    def to_json(self) -> str:
        """Returns the shard as one line of text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "Shard":
        """Returns the shard that `to_json` made the line of."""
        fields = json.loads(line)
        return cls(**fields | {"images": tuple(map(tuple, fields["images"]))})


def find_files(input_base: str, pattern: str, unread: Unread | None = None) -> list[File]:
    """Returns the images and TFRecord files below a folder that match, sorted by key.

    Args:
        input_base: Folder on the local or any other file system that Beam supports.
        pattern: Pattern relative to the folder; `*` stays within a folder, `**` includes
            subfolders. Hidden files and folders are skipped, links are followed as in training
            (`walk.files_below`).
        unread: Record that gets what is not read: broken links, pipes and the like below the fixed
            part of the pattern, and files of other kinds that match.

    Raises:
        UserError: The folder does not exist or cannot be read.
    """
    unread = Unread() if unread is None else unread
    base = input_base.rstrip("/") + "/"
    matches = re.compile(FileSystem.translate_pattern(pattern) + r"\Z").match
    fixed = re.split(r"[*?\[]", pattern)[0].rpartition("/")[0]
    found = []
    for key, size, modified in _walk(base, pattern, fixed, unread):
        name = key.rpartition("/")[2]
        if not matches(key) or any(part.startswith(".") for part in key.split("/")):
            continue
        if name.lower().endswith(IMAGE_EXTENSIONS) or "tfrecord" in name:
            group, slash, _ = key[len(fixed) :].lstrip("/").partition("/")
            found.append(File(base + key, key, group if slash else "", size, modified))
        else:
            unread.other_kind(key)
    return sorted(found, key=lambda file: file.key)


def digest(files: Iterable[File], classes: Mapping[str, str] | None = None) -> str:
    """Returns 12 hex digits that depend on the files' keys, sizes and times, and on `classes`.

    Args:
        files: Files below one folder; where it is does not count.
        classes: Class name by key, where it does not follow from the keys.
    """
    told = classes or {}
    lines = (
        f"{file.key}\0{file.size}\0{file.modified}\0{told.get(file.key, '')}\n" for file in files
    )
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()[:12]


def class_names(
    files: Mapping[str, Sequence[File]], labels: str, input_base: str
) -> dict[str, str]:
    """Returns the class name of each image by its key; empty for unlabelled data.

    Args:
        files: Files by split.
        labels: `folders` (the first subfolder is the class; if some images are in no subfolder,
            the data has no labels), `none`, or the path of a CSV file with the columns path
            (relative to `input_base`) and label.
        input_base: Folder of the files.

    Raises:
        UserError: The CSV file cannot be read, or has no label for an image.
    """
    images = [
        file
        for split in files.values()
        for file in split
        if file.is_image  # TFRecords contain their labels.
    ]
    if labels == "none":
        return {}
    if labels != "folders":
        return _classes_from_csv(labels, images, input_base)
    outside = sum(not file.group for file in images)
    if outside and outside < len(images):
        logging.warning(
            "%s: %d images are not in a class subfolder; using the data without labels.",
            input_base,
            outside,
        )
    return {} if outside else {file.key: file.group for file in images}


def split_of(key: str, buckets: Mapping[str, int]) -> str:
    """Returns the split of a key, by its SHA-256 and in proportion to the buckets."""
    bounds, total = [], 0
    for size in buckets.values():
        total += size
        bounds.append(total)
    bucket = int(hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest(), 16) % total
    return list(buckets)[bisect.bisect(bounds, bucket)]


def plan(
    files: Mapping[str, Sequence[File]], buckets: Mapping[str, int], classes: Mapping[str, str]
) -> list[Shard]:
    """Returns the shards of all splits.

    Images are put into shards in a pseudo-random order that depends on their names, so that each
    shard is a fair sample and training needs no more than a shuffle buffer.

    Args:
        files: Images and TFRecord files by input split.
        buckets: Output split -> number of buckets; empty to keep the input splits.
        classes: Result of `class_names`.
    """
    label_of = {name: label for label, name in enumerate(sorted(set(classes.values())))}
    images, records = collections.defaultdict(list), collections.defaultdict(list)
    for input_split, found in files.items():
        for file in found:
            if not file.is_image:
                for split in buckets or [input_split]:
                    records[split].append(file.path)
            else:
                images[split_of(file.key, buckets) if buckets else input_split].append(file)
    shards = []
    for split in buckets or files:
        groups = list(_deal(images[split]))
        count = len(groups) + len(records[split])
        for index, group in enumerate(groups):
            examples = tuple(
                (f.path, f.key, label_of.get(classes.get(f.key, ""), -1), classes.get(f.key, ""))
                for f in group
            )
            shards.append(Shard(split, index, count, examples))
        for index, path in enumerate(sorted(records[split]), len(groups)):
            shards.append(Shard(split, index, count, records=path, buckets=buckets or None))
    return shards


def _deal(images: Sequence[File]) -> Iterable[list[File]]:
    """Yields groups of at most `_SHARD_BYTES` and `_SHARD_EXAMPLES`."""

    def drawn(file: File) -> bytes:
        return hashlib.sha256(b"order" + file.key.encode(errors="surrogateescape")).digest()

    group: list[File] = []
    size = 0
    for file in sorted(images, key=drawn):
        if group and (size + file.size > _SHARD_BYTES or len(group) == _SHARD_EXAMPLES):
            yield group
            group, size = [], 0
        group.append(file)
        size += file.size
    if group:
        yield group


def _walk(base: str, pattern: str, fixed: str, unread: Unread) -> Iterable[tuple[str, int, float]]:
    """Yields (key, size, modified) of files below `base`, at least of those that match."""
    if "://" in base:
        for match in FileSystems.match([base + pattern]):
            for file in match.metadata_list:
                yield file.path[len(base) :], file.size_in_bytes, file.last_updated_in_seconds
        return

    # Beam's own walk silently skips folders that it may not read, and links to folders. Only the
    # fixed part is walked over: each folder is visited once, and may be linked to from another
    # split or span.
    start = fixed if os.path.isdir(base + fixed) else ""
    for path, status in files_below(os.path.join(base, start), unread):
        yield os.path.join(start, path), status.st_size, status.st_mtime


def _classes_from_csv(path: str, images: Sequence[File], input_base: str) -> dict[str, str]:
    """Returns the class name of each image by its key, as a CSV file gives it."""
    try:
        with FileSystems.open(path) as file:
            text = file.read().decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text)))
        classes = {row["path"]: (row["label"] or "").strip() for row in rows}
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise UserError(
            f"the labels '{path}' cannot be read ({error}); give a CSV file in UTF-8 with the "
            "columns path and label."
        ) from error
    missing = [file.key for file in images if not classes.get(file.key)]
    if missing:
        raise UserError(
            f"the labels '{path}' lack {len(missing)} of {len(images)} images (such as "
            f"{missing[0]}); add a row for each, with its path relative to '{input_base}'."
        )
    return {file.key: classes[file.key] for file in images}

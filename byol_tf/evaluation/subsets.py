"""Labelled subsets of a training set: class-balanced draws, and files that list them.

A list holds the key of one example per line: its path within a folder, or `image/key` of a
TFRecord. The 1 % and 10 % of ImageNet that SimCLR's authors published are such lists of file names.
"""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.files import write_atomically
from byol_tf.sources import Source

_CHUNK = 1024


@dataclasses.dataclass(frozen=True)
class Listing:
    """Labels and keys of a source's examples, in its order.

    Attributes:
        labels: Labels, int32 `[N]`.
        keys: N keys, as written to a list.
    """

    labels: np.ndarray
    keys: list[str]


def list_examples(source: Source) -> Listing:
    """Returns labels and keys of all examples of a labelled source, without reading the images."""

    def label_and_key(_, name, payload, label):
        # tf.data prunes what is not used: reading the file.
        _, label, key = source.load(name, payload, label)
        return label, key

    examples = source.in_order(_CHUNK).unbatch().map(label_and_key).batch(_CHUNK)
    labels, chunks = zip(*examples.as_numpy_iterator(), strict=True)
    # So that names that are not UTF-8 can be written to a list and found again.
    keys = [key.decode(errors="backslashreplace") for chunk in chunks for key in chunk]
    return Listing(np.concatenate(labels), keys)


def class_balanced(
    labels: np.ndarray, fraction: float, seed: int, class_names: Sequence[str]
) -> np.ndarray:
    """Draws the same number of examples of each class: round(fraction · N / C), at least 1.

    With the same seed, a smaller subset is part of a larger one.

    Args:
        labels: Labels, int `[N]` in [0, C).
        fraction: Fraction of the N examples, in (0, 1].
        seed: Seed of the draw.
        class_names: C names.

    Returns:
        Positions, int64, sorted.

    Raises:
        UserError: The fraction is out of range, or a class has too few examples.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"the fraction of labels is {fraction}; give one in (0, 1].")
    per_class = max(1, round(fraction * len(labels) / len(class_names)))
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    chosen = []
    for label, name in enumerate(class_names):
        of_class = shuffled[labels[shuffled] == label]
        if len(of_class) < per_class:
            raise UserError(
                f"{fraction:.3g} of {len(labels)} labels in {len(class_names)} equal parts is "
                f"{per_class} per class, but class '{name}' has {len(of_class)} images; give a "
                "smaller fraction, or remove the class."
            )
        chosen.append(of_class[:per_class])
    return np.sort(np.concatenate(chosen))


def write_list(path: str, keys: Sequence[str]) -> None:
    """Writes a list atomically."""
    write_atomically(path, "".join(f"{key}\n" for key in keys))


def read_list(path: str, listing: Listing) -> np.ndarray:
    """Returns the positions of the examples of a list, int64, sorted.

    Args:
        path: Path of the list. A line is a key, or the last part of a key if that is unique.
        listing: Listing of the source.

    Raises:
        UserError: The file is missing or empty, or a line names no example, several, or one twice.
    """
    if not tf.io.gfile.exists(path):
        raise UserError(f"the list '{path}' does not exist; give a file with one key per line.")
    with tf.io.gfile.GFile(path) as file:
        lines = [line.rstrip("\r\n") for line in file]
    lines = [line for line in lines if line]
    if not lines:
        raise UserError(f"the list '{path}' is empty; give a file with one key per line.")

    by_key, by_last_part = collections.defaultdict(list), collections.defaultdict(list)
    for position, key in enumerate(listing.keys):
        by_key[key].append(position)
        by_last_part[key.rpartition("/")[2]].append(position)
    chosen = set()
    for line in lines:
        found = by_key.get(line) or by_last_part.get(line, [])
        if len(found) != 1 or found[0] in chosen:
            problem = "again" if len(found) == 1 else f"the key of {len(found)} training images"
            raise UserError(
                f"the list '{path}' names '{line}', {problem}; give keys as "
                f"'{listing.keys[0]}', each once."
            )
        chosen.add(found[0])
    return np.array(sorted(chosen))

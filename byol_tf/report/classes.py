"""Accuracy by class, and long lists of classes shortened to a readable length."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TypeVar

_WORST, _BEST = 20, 10  # Classes shown if there are more than both together.

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class ClassSlice:
    """Accuracy on the examples of one class, in [0, 1], with its 95 % interval."""

    name: str
    accuracy: float
    low: float
    high: float
    examples: int


@dataclasses.dataclass(frozen=True)
class ByClass:
    """Classes as a page shows them.

    Attributes:
        overall: Accuracy on the examples of all classes, or None if unknown.
        groups: Classes from worst to best in one group, or the two ends of a long list in two.
        count: Number of classes, shown or not.
    """

    overall: ClassSlice | None
    groups: Sequence[Sequence[ClassSlice]]
    count: int


def by_class(overall: ClassSlice | None, classes: Iterable[ClassSlice]) -> ByClass:
    """Sorts classes, worst first, and leaves out the middle of a long list."""
    classes = sorted(classes, key=lambda one: (one.accuracy, one.name))
    return ByClass(overall, ends(classes, _WORST, _BEST), len(classes))


def ends(values: list[_T], first: int, last: int) -> list[list[_T]]:
    """Returns all values as one group if there are at most `first` + `last`, else the two ends."""
    if len(values) <= first + last:
        return [values] if values else []
    return [values[:first], values[-last:]]

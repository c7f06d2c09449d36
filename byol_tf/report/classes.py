"""Accuracy by class, and long lists of classes cut to what can be read."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TypeVar

_WORST, _BEST = 20, 10  # Classes shown where there are more than both.

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
    """What a page shows of classes.

    Attributes:
        overall: of the examples of all classes, where that is known.
        groups: classes from worst to best in one group, or the ends of a long list in two.
        count: classes there are, shown or not.
    """

    overall: ClassSlice | None
    groups: Sequence[Sequence[ClassSlice]]
    count: int


def by_class(overall: ClassSlice | None, classes: Iterable[ClassSlice]) -> ByClass:
    """Sorts classes, worst first, and leaves the middle of a long list out."""
    classes = sorted(classes, key=lambda one: (one.accuracy, one.name))
    return ByClass(overall, ends(classes, _WORST, _BEST), len(classes))


def ends(values: list[_T], first: int, last: int) -> list[list[_T]]:
    """All values in one group if they are at most `first` + `last`, else the two ends; or none."""
    if len(values) <= first + last:
        return [values] if values else []
    return [values[:first], values[-last:]]

"""The page of a run: `render` makes it, `write` puts it where a browser can open it."""

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2

from pipelines.report import charts, formats, gallery
from pipelines.report.summary import ClassSlice, RunSummary, SplitStatistics

_WORST, _BEST = 20, 10  # Classes shown where there are more than both.
_COMMON, _RARE = 10, 10  # Labels, likewise.
_CORRUPT = 20


def render(summary: RunSummary) -> str:
    """The page as one HTML document that refers to nothing outside itself."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals["show"] = _show
    environment.filters |= {
        "percent": formats.percent,
        "number": formats.number,
        "magnitude": formats.magnitude,
        "duration": formats.duration,
        "date": formats.date,
    }
    return environment.get_template("template.html").render(
        run=summary,
        total_examples=sum(split.examples for split in summary.splits),
        last=summary.history[-1] if summary.history else {},
        curves=charts.learning_curves(summary.history) if summary.history else (),
        overall=next((s for s in summary.slices if s.name == "overall"), None),
        classes=_worst_and_best(summary.slices),
        neighbours=gallery.neighbour_rows(summary.gallery) if summary.gallery else (),
        map=charts.embedding_map(summary.gallery) if summary.gallery else None,
        labels=_label_mix(summary.splits),
        corrupt=summary.corrupt[:_CORRUPT],
        config=list(_flat(summary.config)),
    )


def write(summary: RunSummary, path: str | os.PathLike) -> None:
    """Writes the page to a local file, which is never seen half written."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    unfinished.write_text(render(summary), encoding="utf-8")
    os.replace(unfinished, path)


def _worst_and_best(slices: Sequence[ClassSlice]) -> list[list[ClassSlice]]:
    """Classes from worst to best in one group, or the ends of a long list in two."""
    classes = sorted(
        (s for s in slices if s.name != "overall"), key=lambda s: (s.accuracy, s.name)
    )
    return _ends(classes, _WORST, _BEST)


def _label_mix(splits: Sequence[SplitStatistics]) -> list[list[str]]:
    """Labels from the most common to the rarest, grouped likewise."""
    totals: dict[str, int] = {}
    for split in splits:
        for label, count in split.labels.items():
            totals[label] = totals.get(label, 0) + count
    return _ends(sorted(totals, key=lambda label: (-totals[label], label)), _COMMON, _RARE)


def _ends(values: list, first: int, last: int) -> list[list]:
    if len(values) <= first + last:
        return [values] if values else []
    return [values[:first], values[-last:]]


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, value), as one would type them as flags."""
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


def _show(value: float | None, fraction: bool) -> str:
    return formats.percent(value) if fraction else formats.number(value)

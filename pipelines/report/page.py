"""The report of a run as an HTML page."""

import os
import pathlib
from collections.abc import Sequence

from byol_tf.report import charts, formats, gallery, page
from byol_tf.report.classes import by_class, ends
from byol_tf.report.embedding_map import embedding_map
from pipelines.report.summary import RunSummary, SplitStatistics

_TEMPLATE = pathlib.Path(__file__).with_name("template.html")
_COMMON, _RARE = 10, 10  # Labels shown if there are more than the sum.
_CORRUPT = 20  # Corrupt files shown.


def render(summary: RunSummary) -> str:
    """Returns the page as one HTML document that refers to nothing outside itself."""
    overall = next((s for s in summary.slices if s.name == "overall"), None)
    return page.render(
        _TEMPLATE,
        show=_show,
        run=summary,
        total_examples=sum(split.examples for split in summary.splits),
        last=summary.history[-1] if summary.history else {},
        curves=charts.learning_curves(summary.history, summary.loss_caption)
        if summary.history
        else (),
        classes=by_class(overall, (s for s in summary.slices if s.name != "overall")),
        neighbours=gallery.neighbour_rows(summary.gallery) if summary.gallery else (),
        map=embedding_map(summary.gallery) if summary.gallery else None,
        labels=_label_mix(summary.splits),
        corrupt=summary.corrupt[:_CORRUPT],
        config=list(page.flat(summary.config)),
    )


def write(summary: RunSummary, path: str | os.PathLike) -> None:
    """Writes the page to a local file, atomically."""
    # Imports TensorFlow, which takes seconds and which `render` does not need.
    from byol_tf.files import write_atomically

    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(str(path), render(summary))


def _label_mix(splits: Sequence[SplitStatistics]) -> list[list[str]]:
    """Returns the labels, most common first: one group, or both ends of a long list as two."""
    totals: dict[str, int] = {}
    for split in splits:
        for label, count in split.labels.items():
            totals[label] = totals.get(label, 0) + count
    return ends(sorted(totals, key=lambda label: (-totals[label], label)), _COMMON, _RARE)


def _show(value: float | None, fraction: bool) -> str:
    return formats.percent(value) if fraction else formats.number(value)

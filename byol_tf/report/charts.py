"""Figures as inline SVG in the page's font and colours, both light and dark."""

import dataclasses
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from byol_tf.report import formats

# Matplotlib needs colours when it draws, but the page's are known only when it is shown: these are
# placeholders for the style sheet's variables.
_MUTED, _GRID, _FIRST, _SECOND = "#000001", "#000002", "#000003", "#000004"
_VARIABLES = {
    _MUTED: "var(--muted)",
    _GRID: "var(--line)",
    _FIRST: "var(--first)",
    _SECOND: "var(--second)",
}
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _MUTED,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.formatter.useoffset": False,
    "font.size": 9.5,
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    "svg.fonttype": "none",  # Keeps text as text: small, selectable, in the page's font.
    "svg.hashsalt": "byol_tf",  # The same run makes the same page.
    "text.color": _MUTED,
    "xtick.color": _GRID,
    "xtick.labelcolor": _MUTED,
    "ytick.color": _GRID,
    "ytick.labelcolor": _MUTED,
    "ytick.major.size": 0,
}


@dataclasses.dataclass(frozen=True)
class Key:
    """An entry of a legend: a name, a CSS colour and an optional value."""

    name: str
    color: str
    value: str = ""


@dataclasses.dataclass(frozen=True)
class Chart:
    """A figure of the page; if there is nothing to draw, `svg` is None and `caption` says why."""

    title: str
    svg: Markup | None
    caption: str
    keys: Sequence[Key] = ()


@dataclasses.dataclass(frozen=True)
class Curve:
    """Columns of the history that one chart draws, and how it draws them."""

    title: str
    columns: Mapping[str, str]  # Legend names by column.
    caption: str
    write: Callable[[float], str] = formats.number
    limits: tuple[float | None, float | None] = (None, None)

    def points(
        self, history: Sequence[Mapping[str, float]]
    ) -> dict[str, list[tuple[float, float]]]:
        """Returns finite (epoch, value) pairs by column, for the columns that have any."""
        columns = {name: _finite_points(history, name) for name in self.columns}
        return {name: points for name, points in columns.items() if points}

    def draw(
        self, axes: Axes, history: Sequence[Mapping[str, float]], colors: Sequence[str]
    ) -> None:
        """Draws the columns, each in one of `colors`, of which there may be more."""
        series = self.points(history)
        for name, color in zip(self.columns, colors, strict=False):
            if points := series.get(name):
                epochs, values = zip(*points, strict=True)
                marker = "o" if len(points) <= 20 else None
                axes.plot(epochs, values, color=color, linewidth=1.6, marker=marker, markersize=3)
        axes.set_ylim(*self.limits)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
        if self.write is formats.percent:
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.set_xlabel("epoch")


_TARGET = Curve(
    "τ of the target network",
    {"ema": "τ"},
    "Share of the target network's weights kept at each step; it rises to 1 along a cosine, where "
    "the target no longer changes.",
    write=lambda tau: f"{tau:.4f}",
)
_OF_ALL_METHODS = (
    Curve(
        "Projection std",
        {"projection_std": "std × √d"},
        "Of the projections of training batches: 1 = evenly spread over the sphere, 0 = collapsed "
        "to a point.",
        limits=(0, 1.05),
    ),
    Curve(
        "Rank in training",
        {"effective_rank": "dimensions in use"},
        "How many dimensions the representations of training images use; near 1 = collapsed to a "
        "line.",
        limits=(0, None),
    ),
    Curve(
        "Accuracy while training",
        {"knn_accuracy": "kNN", "online_accuracy": "online classifier"},
        "Only for monitoring, from labels that the encoder does not see. The final measurement is "
        "in the table above.",
        write=formats.percent,
        limits=(0, None),
    ),
    Curve("Learning rate", {"lr": "rate"}, "Warm-up, then a cosine to 0.", limits=(0, None)),
)


def measurements(rows: Sequence[Mapping[str, str]]) -> list[dict[str, float]]:
    """Returns the rows of a history.csv as numbers, without empty cells."""
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


def curves(history: Sequence[Mapping[str, float]], loss_caption: str = "") -> list[Curve]:
    """Returns the curves of a run's history; the target network's τ only if it was logged.

    Args:
        history: Rows of `measurements`, one per epoch.
        loss_caption: Caption of the loss, which differs between methods.
    """
    loss = Curve("Loss", {"loss": "loss"}, loss_caption, limits=(0, None))
    has_target = any("ema" in row for row in history)
    return [loss, *_OF_ALL_METHODS, *([_TARGET] if has_target else [])]


def learning_curves(history: Sequence[Mapping[str, float]], loss_caption: str = "") -> list[Chart]:
    """Returns one small chart over epochs per curve; arguments are those of `curves`."""
    return [_curve_chart(curve, history) for curve in curves(history, loss_caption)]


def _curve_chart(curve: Curve, history: Sequence[Mapping[str, float]]) -> Chart:
    series = curve.points(history)
    missing = [legend for name, legend in curve.columns.items() if name not in series]
    caption = curve.caption
    if missing:
        caption = f"Not measured in this run: {', '.join(missing)}. {caption if series else ''}"
    broken = [
        int(row["epoch"])
        for row in history
        if not all(math.isfinite(row.get(name, 0.0)) for name in curve.columns)
    ]
    if broken:
        epochs = f"{len(broken)} epoch{'s' if len(broken) > 1 else ''}"
        caption = f"Not finite in {epochs}, first in epoch {broken[0]}. {caption}"
    if not series:
        return Chart(curve.title, None, caption.strip())
    colors = dict(zip(curve.columns, (_FIRST, _SECOND), strict=False))  # Some have one column.
    keys = [
        Key(curve.columns[name], _VARIABLES[colors[name]], curve.write(points[-1][1]))
        for name, points in series.items()
    ]
    label = f"{curve.title} by epoch: " + ", ".join(f"{k.name} ends at {k.value}" for k in keys)
    svg = _svg(
        curve.title, label, (3.7, 1.9), lambda axes: curve.draw(axes, history, (_FIRST, _SECOND))
    )
    return Chart(curve.title, svg, caption, keys)


def _finite_points(history: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    rows = [(row["epoch"], row.get(name)) for row in history]
    return [(epoch, y) for epoch, y in rows if y is not None and math.isfinite(y)]


def _svg(
    name: str, label: str, inches: tuple[float, float], draw: Callable[[Axes], None]
) -> Markup:
    """Returns what `draw` draws, as an <svg> element without a fixed size."""
    file = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=inches, layout="constrained")
        draw(figure.subplots())
        figure.savefig(file, format="svg", transparent=True)
    return Markup(_inline(file.getvalue(), name, label))


def _inline(document: str, name: str, label: str) -> str:
    """Returns the <svg> element of Matplotlib's file, with ids unique within the page."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)

    # The page sets the width, and an id may occur only once per page.
    def opening(match: re.Match[str]) -> str:
        namespace = 'xmlns:xlink="http://www.w3.org/1999/xlink"'
        return f'<svg {namespace} {match[1]} role="img" aria-label="{escape(label)}">'

    svg = re.sub(r'<svg[^>]*(viewBox="[^"]+")[^>]*>', opening, svg, count=1)
    prefix = re.sub(r"\W+", "-", name.lower())
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{prefix}-", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    return svg

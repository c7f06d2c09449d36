"""Table and plot of a study."""

from collections.abc import Mapping, Sequence

from byol_tf.ablation.studies import KNN, LINEAR, RANK, SPREAD, Cell
from byol_tf.evaluation.results import markdown

_COLORS = ("#3366aa", "#cc6622", "#558833", "#884499")
_INK, _GREY = "#333333", "#888888"
_TITLES = {
    "batch_size": "images per micro-batch",
    "augmentations": "augmentations",
    "target_ema": "τ₀, the decay rate of the target at the start",
    "method": "method",
}

Figures = Sequence[Mapping[str, float]]  # One per seed.


def table(measured: Mapping[Cell, Figures], untrained: Figures) -> str:
    """Returns a Markdown table: one row per cell and one for the untrained encoder.

    Numbers are means over seeds, with the range if there are several.
    """
    rows = {
        f"{cell.line}, {cell.point}": {
            "kNN top-1, %": _spread([100 * figures[KNN] for figures in by_seed], ".1f"),
            "linear top-1, %": _spread([100 * figures[LINEAR] for figures in by_seed], ".1f"),
            "projection std": _spread([figures[SPREAD] for figures in by_seed], ".2f"),
            "effective rank": _spread([figures[RANK] for figures in by_seed], ".0f"),
        }
        for cell, by_seed in measured.items()
    }
    rows["before training"] = {
        "kNN top-1, %": _spread([100 * figures[KNN] for figures in untrained], ".1f"),
        "linear top-1, %": _spread([100 * figures[LINEAR] for figures in untrained], ".1f"),
    }
    return markdown(rows, corner="run")


def plot(study: str, measured: Mapping[Cell, Figures], untrained: Figures, path: str) -> None:
    """Writes a PNG with linear and kNN accuracy along the study, one curve per line.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    points = list(dict.fromkeys(cell.point for cell in measured))
    lines = list(dict.fromkeys(cell.line for cell in measured))
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    for axes, header, title in zip(
        figure.subplots(1, 2), (LINEAR, KNN), ("linear top-1, %", "kNN top-1, %"), strict=True
    ):
        for line, color in zip(lines, _COLORS, strict=False):
            cells = {cell.point: by_seed for cell, by_seed in measured.items() if cell.line == line}
            values = [[100 * figures[header] for figures in cells[point]] for point in cells]
            mean = [sum(column) / len(column) for column in values]
            low = [m - min(column) for m, column in zip(mean, values, strict=True)]
            high = [max(column) - m for m, column in zip(mean, values, strict=True)]
            places = [points.index(point) for point in cells]
            ranges = (low, high) if len(untrained) > 1 else None
            axes.errorbar(
                places, mean, ranges, color=color, marker="o", markersize=4.5, capsize=3, label=line
            )
        level = 100 * sum(figures[header] for figures in untrained) / len(untrained)
        axes.axhline(level, color=_GREY, linestyle="--", linewidth=1, label="before training")
        axes.set_xticks(
            range(len(points)), [point.replace(" and ", " and\n") for point in points], fontsize=8
        )
        axes.margins(x=0.12)
        axes.set_title(title, fontsize=10, color=_INK, loc="left")
        axes.set_xlabel(_TITLES[study], fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", labelsize=8)
        axes.grid(axis="y", alpha=0.25)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=3, frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def _spread(values: Sequence[float], form: str) -> str:
    mean = format(sum(values) / len(values), form)
    if len(values) == 1:
        return mean
    return f"{mean} [{min(values):{form}}, {max(values):{form}}]"

"""Draws the figures of docs/results from a run: curves, views of eight images, neighbours.

python docs/plots.py --run_dir=RUN --train_dir=DIR --test_dir=DIR --output=docs/results/NAME
"""

import argparse
import os
import pathlib

import matplotlib
import numpy as np

from byol_tf import runs
from byol_tf.report import charts, gallery

matplotlib.use("Agg")
import matplotlib.pyplot as plt

INK, BLUE, ORANGE = "#333333", "#3366aa", "#cc6622"


def curves(history: list[dict[str, float]], path: pathlib.Path) -> None:
    """Draws the learning curves of the run's page as one picture."""
    figure, axes = plt.subplots(2, 3, figsize=(11, 5.4), constrained_layout=True)
    for axis, curve in zip(axes.flat, charts.curves(history), strict=False):
        curve.draw(axis, history, (BLUE, ORANGE))
        axis.grid(axis="y", alpha=0.25)
        axis.set_title(curve.title, fontsize=10, color=INK, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.xaxis.label.set_size(9)
        if len(curve.columns) > 1:
            drawn = [curve.columns[name] for name in curve.points(history)]
            axis.legend(drawn, frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def image_rows(rows: list[list[np.ndarray]], titles: list[str], path: pathlib.Path) -> None:
    """Draws a grid of images, float `[H, W, 3]` in [0, 1], with `titles` above the columns."""
    columns = len(rows[0])
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(0.95 * columns, 0.95 * len(rows) + 0.25),
        constrained_layout=True,
    )
    for row, images in zip(axes, rows, strict=True):
        for axis, image in zip(row, images, strict=True):
            axis.imshow(image.clip(0, 1))
            axis.set_xticks([]), axis.set_yticks([])
            axis.spines[:].set_visible(False)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9, color=INK)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("run_dir", "train_dir", "test_dir", "output"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from byol_tf import data, encoders
    from byol_tf.evaluation import features
    from byol_tf.runs import read_history

    output = pathlib.Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    curves(charts.measurements(read_history(args.run_dir)), output / "curves.png")

    config = runs.load_config(args.run_dir)
    mean, std = np.asarray(config.normalize.mean), np.asarray(config.normalize.std)
    config.batch_size = 8
    views, *_ = next(iter(data.two_view_dataset(args.train_dir, config)))
    rows = [[view.numpy() * std + mean for view in column] for column in views]
    image_rows(rows, [""] * 8, output / "views.png")

    encoder = encoders.from_run(args.run_dir)

    def embedded(folder):
        dataset = data.evaluation_dataset(folder, encoder.preprocessing, 256)
        found = features.extract(encoder.encode, dataset)
        keys = [key.decode() for key in found.keys]
        return gallery.Gallery(found.representations, (), keys, found.labels)

    def image(folder, images, position):
        return plt.imread(os.path.join(folder, images.keys[position])) / 255

    test, train = embedded(args.test_dir), embedded(args.train_dir)
    rows = [
        [image(args.test_dir, test, query)] + [image(args.train_dir, train, i) for i, _ in near]
        for query, near in gallery.neighbours(test, train)
    ]
    image_rows(rows, ["query", "nearest", *[""] * (len(rows[0]) - 2)], output / "neighbours.png")


if __name__ == "__main__":
    main()

"""Draws the figures of docs/results from a run folder: curves, the two views of eight images, nearest neighbours.

    python docs/plots.py --run_dir=RUN --train_dir=DIR --test_dir=DIR --output=docs/results/NAME
"""

import argparse
import os
import pathlib

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

INK, BLUE, ORANGE = "#333333", "#3366aa", "#cc6622"


def curves(rows: list[dict[str, str]], path: pathlib.Path) -> None:
    """Loss, collapse measures, accuracies and schedules over the epochs of a history.csv."""
    panels = [
        ("loss (8 at most, 4 at random)", ["loss"]),
        ("projection std (1 even, 0 collapsed)", ["projection_std"]),
        ("effective rank of the representation", ["effective_rank"]),
        ("accuracy", ["knn_accuracy", "online_accuracy"]),
        ("learning rate", ["lr"]),
        ("τ", ["ema"]),
    ]
    figure, axes = plt.subplots(2, 3, figsize=(11, 5.4), constrained_layout=True)
    for axis, (title, names) in zip(axes.flat, panels):
        for name, color in zip(names, (BLUE, ORANGE)):
            points = [(int(row["epoch"]), float(row[name])) for row in rows if row.get(name)]
            if points:
                axis.plot(*zip(*points), color=color, marker="o", markersize=3, label=name)
        axis.set_title(title, fontsize=10, color=INK, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.grid(axis="y", alpha=0.25)
        if len(names) > 1:
            axis.legend(frameon=False, fontsize=8)
    for axis in axes[1]:
        axis.set_xlabel("epoch", fontsize=9)
    axes[0][1].set_ylim(0, 1.05)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def image_rows(rows: list[list[np.ndarray]], titles: list[str], path: pathlib.Path) -> None:
    """A grid of images, float `[H, W, 3]` in [0, 1]; `titles` stand above the columns."""
    columns = len(rows[0])
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(0.95 * columns, 0.95 * len(rows) + 0.25), constrained_layout=True
    )
    for row, images in zip(axes, rows):
        for axis, image in zip(row, images):
            axis.imshow(image.clip(0, 1))
            axis.set_xticks([]), axis.set_yticks([])
            axis.spines[:].set_visible(False)
    for axis, title in zip(axes[0], titles):
        axis.set_title(title, fontsize=9, color=INK)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("run_dir", "train_dir", "test_dir", "output"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from byol_tf import data, pretrain
    from byol_tf.callbacks.history import read_history
    from byol_tf.evaluation import features

    output = pathlib.Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    curves(read_history(args.run_dir), output / "curves.png")

    config = pretrain.load_config(args.run_dir)
    mean, std = np.asarray(config.normalize.mean), np.asarray(config.normalize.std)
    config.batch_size = 8
    views, *_ = next(iter(data.two_view_dataset(args.train_dir, config)))
    rows = [[view.numpy() * std + mean for view in column] for column in views]
    image_rows(rows, [""] * 8, output / "views.png")

    preprocessing = pretrain.preprocessing_from_config(config)
    encoder = pretrain.restore_encoder(args.run_dir)
    train_source, test_source = data.open_source(args.train_dir), data.open_source(args.test_dir)
    train = features.extract(encoder, data.evaluation_dataset(train_source, preprocessing, 256))
    test = features.extract(encoder, data.evaluation_dataset(test_source, preprocessing, 256))

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    # One query a class, the first of each; nearest in the training set by cosine.
    queries = [int(np.flatnonzero(test.labels == label)[0]) for label in np.unique(test.labels)]
    nearest = np.argsort(-unit(test.representations[queries]) @ unit(train.representations).T, axis=1)[:, :9]

    def image(source, folder, key):
        return plt.imread(os.path.join(folder, key.decode())) / 255

    rows = [
        [image(test_source, args.test_dir, test.keys[query])]
        + [image(train_source, args.train_dir, train.keys[i]) for i in neighbours]
        for query, neighbours in zip(queries, nearest)
    ]
    image_rows(rows, ["query", "nearest", *[""] * 8], output / "neighbours.png")


if __name__ == "__main__":
    main()

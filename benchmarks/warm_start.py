"""What keeps good weights while they are adapted to a folder of photos?

    python benchmarks/warm_start.py --weights=runs/old --photos=photos --new=new --old=old

An encoder trained on some classes (--weights, anything `config.encoder.weights` takes) is trained
on by BYOL on a small folder of other classes (--photos): from scratch, from the weights as they
are, with lower rates, with rates that fall towards the first layer, and with the encoder frozen at
first. After some epochs a linear classifier and kNN judge its frozen features: on the new classes,
with --photos as the labelled images and --new/test as the test, and on the old ones, --old/train
and --old/test, which tell how much is kept. Each run is a line of --output/runs.jsonl; a second
call continues with those that are missing. Table and curves are made of all of them.
"""

import argparse
import json
import os
import pathlib
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import recording
import tensorflow as tf

from byol_tf import data, weights
from byol_tf.build import build_model, preprocessing_from_config
from byol_tf.configs import cifar10_demo
from byol_tf.evaluation import features, knn
from byol_tf.evaluation.logistic_regression import Examples, regularization_path
from byol_tf.evaluation.results import markdown
from byol_tf.models import schedules
from byol_tf.models.byol import BYOL
from byol_tf.models.precision import resolve_precision

EPOCHS, BATCH_SIZE = 12, 64
EVALUATED = (0, 1, 2, 4, 8, 12)  # Epochs.
START = {"warm": True, "rate": 16.0, "first_layer_rate": 1.0, "frozen_epochs": 0}
# "rate" is `config.optimizer.base_lr`, of LARS.
CONDITIONS: dict[str, dict[str, Any]] = {
    "warm, rate 16": START,
    "warm, rate 4": START | {"rate": 4.0},
    "warm, rate 16, first layer 1": START | {"first_layer_rate": 1 / 16},
    "warm, rate 16, 4 epochs frozen": START | {"frozen_epochs": 4},
    "from scratch, rate 4": START | {"warm": False, "rate": 4.0},
    "warm, rate 1": START | {"rate": 1.0},
    "from scratch, rate 16": START | {"warm": False},
}


class Adapted(BYOL):
    """BYOL whose encoder makes only a share of the optimizer's steps, layer by layer.

    Args:
        first_layer_rate: Share of the first layer, in (0, 1]; it rises to 1 geometrically with the
            number of kernels below a layer.
        frozen_steps: Number of first steps in which the encoder's weights stay. BatchNorm goes on
            to use the batch's statistics, and to average them.
    """

    CONFIG_FIELDS = (*BYOL.CONFIG_FIELDS, "first_layer_rate", "frozen_steps")

    def __init__(self, encoder, *, first_layer_rate: float, frozen_steps: int, **options: Any):
        super().__init__(encoder, **options)
        self.first_layer_rate, self.frozen_steps = first_layer_rate, frozen_steps
        kernels = np.cumsum([len(weight.shape) > 1 for weight in encoder.trainable_weights]) - 1
        self._shares = first_layer_rate ** (1 - np.maximum(kernels, 0) / kernels[-1])

    def train_step(self, data: tuple) -> dict[str, tf.Tensor]:
        self._before = [tf.identity(weight) for weight in self.encoder.trainable_weights]
        return super().train_step(data)

    def after_update(self) -> dict[str, tf.Tensor]:
        trained = tf.cast(self.step >= self.frozen_steps, tf.float32)
        for weight, before, share in zip(
            self.encoder.trainable_weights, self._before, self._shares, strict=True
        ):
            weight.assign(before + trained * share * (weight - before))
        return super().after_update()


class Judge:
    """Accuracies of an encoder's frozen features, on images that are decoded once."""

    def __init__(self, preprocessing: Any, args: argparse.Namespace):
        sources = {
            "new": (args.photos, os.path.join(args.new, "test")),
            "old": (os.path.join(args.old, "train"), os.path.join(args.old, "test")),
        }
        self._splits = {
            classes: [
                data.evaluation_dataset(name, preprocessing, 250, limit=args.images).cache()
                for name in names
            ]
            for classes, names in sources.items()
        }

    def __call__(self, encode: Any) -> dict[str, float]:
        judged = {}
        for classes, splits in self._splits.items():
            train, test = (features.extract(encode, split) for split in splits)
            judged[f"kNN, {classes}"] = knn.knn_accuracy(train, test, k=20).top_1
            scale = np.sqrt(np.mean(np.square(train.representations)))
            examples = Examples(train.representations / scale, train.labels)
            (fit,) = regularization_path(examples, [1.0], 200)
            hits = fit.predict(test.representations / scale) == test.labels
            judged[f"linear, {classes}"] = float(hits.mean())
        return judged


def adapt(
    condition: dict[str, Any], seed: int, start: Any, photos: str, judge: Judge
) -> dict[str, Any]:
    """Trains one encoder; returns its accuracies by epoch, and after one step."""
    config = cifar10_demo.get_config()
    config.precision = resolve_precision("auto")
    config.seed, config.epochs, config.batch_size = seed, EPOCHS, BATCH_SIZE
    config.encoder.depth, config.hidden_size = 10, 512
    config.optimizer.warmup_epochs = 2.0
    config.optimizer.base_lr = condition["rate"]
    config.online_classifier = False
    config.method = f"{__name__}.Adapted"
    source = data.open_source(photos)
    steps = schedules.steps_per_epoch(source.num_examples, BATCH_SIZE)
    config.first_layer_rate = condition["first_layer_rate"]
    config.frozen_steps = condition["frozen_epochs"] * steps
    model = build_model(
        config,
        steps,
        None,
        tf.distribute.get_strategy(),
        start.assign_to if condition["warm"] else None,
    )
    begun = time.perf_counter()
    views = iter(data.two_view_dataset(source, config))
    step = tf.function(lambda batch: model.train_step(batch), autograph=False)
    encode = tf.function(model.encoder, autograph=False, reduce_retracing=True)  # Traced once.
    judged: dict[float, dict[str, float]] = {0.0: judge(encode)}
    for number in range(1, EPOCHS * steps + 1):
        step(next(views))
        epoch = number / steps
        if epoch in EVALUATED or (number == 1 and condition["warm"]):
            judged[round(epoch, 3)] = judge(encode)
    return {
        "epochs": judged,
        "seconds": round(time.perf_counter() - begun),
        "config": json.loads(config.to_json_best_effort()),
    }


def read(records: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the runs that are recorded."""
    runs = [json.loads(line) for line in records.open()] if records.exists() else []
    for run in runs:
        run["epochs"] = {float(epoch): judged for epoch, judged in run["epochs"].items()}
    return runs


def spread(values: list[float]) -> str:
    """Returns "mean [lowest, highest]" in percent."""
    mean, low, high = (100 * figure for figure in (np.mean(values), min(values), max(values)))
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def table(runs: list[dict[str, Any]]) -> str:
    """Returns the accuracies of the last epoch, mean and range over the seeds, as Markdown."""
    headers = list(runs[0]["epochs"][0])
    warm = next(run for run in runs if run["condition"] == "warm, rate 4")
    rows = {
        "before": {"seeds": "-"}
        | {name: f"{100 * warm['epochs'][0][name]:.1f}" for name in headers}
    }
    for condition in CONDITIONS:
        last = [run["epochs"][EPOCHS] for run in runs if run["condition"] == condition]
        if last:
            cells = {name: spread([one[name] for one in last]) for name in headers}
            rows[condition] = {"seeds": str(len(last))} | cells
    return markdown(rows, corner="training")


def draw(runs: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draws the accuracies by epoch, mean and range over the seeds."""
    from matplotlib.figure import Figure

    colors = ("#aa3333", "#dd8822", "#3366aa", "#884499", "#888888", "#558833", "#222222")
    figure = Figure(figsize=(9.6, 7), layout="constrained")
    names = ("linear, new", "linear, old", "kNN, new", "kNN, old")
    for axes, name in zip(figure.subplots(2, 2).flat, names, strict=True):
        for condition, color in zip(CONDITIONS, colors, strict=True):
            curves = [run["epochs"] for run in runs if run["condition"] == condition]
            if not curves:
                continue
            values = 100 * np.array(
                [[curve[epoch][name] for epoch in EVALUATED] for curve in curves]
            )
            axes.plot(EVALUATED, values.mean(0), color=color, marker="o", ms=3, label=condition)
            axes.fill_between(
                EVALUATED, values.min(0), values.max(0), color=color, alpha=0.12, linewidth=0
            )
        axes.set_title(f"{name} classes: top-1, %", fontsize=10, loc="left")
        axes.set_xlabel("epoch", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.grid(axis="y", alpha=0.25)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True, help="a run, file or SavedModel")
    parser.add_argument("--photos", required=True, help="folder to adapt to")
    parser.add_argument("--new", required=True, help="folder with test/: images of its classes")
    parser.add_argument("--old", required=True, help="folder with train/ and test/: other classes")
    parser.add_argument("--images", type=int, default=1600, help="images of each set that judge")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=pathlib.Path, default="docs/results/warm_start")
    args = parser.parse_args()

    args.output.mkdir(parents=True, exist_ok=True)
    records = args.output / "runs.jsonl"
    done = {(run["condition"], run["seed"]) for run in read(records)}
    missing = [(name, seed) for seed in args.seeds for name in CONDITIONS]
    missing = [run for run in missing if run not in done]
    context = recording.context("tensorflow", "keras", "numpy")
    if missing:
        start = weights.read(args.weights)
        judge = Judge(preprocessing_from_config(cifar10_demo.get_config()), args)
    for name, seed in missing:
        measured = adapt(CONDITIONS[name], seed, start, args.photos, judge)
        record = {"condition": name, "seed": seed, "weights": start.describe()} | measured
        with records.open("a") as file:
            file.write(json.dumps(record | context) + "\n")
        print(f"{name}, seed {seed}: {measured['epochs'][EPOCHS]}", flush=True)
    runs = read(records)
    print(table(runs))
    draw(runs, args.output / "curves.png")


if __name__ == "__main__":
    main()

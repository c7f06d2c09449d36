"""The paper's ablations (section 5): what happens to a method when one thing about it changes.

A study is a table of runs, each a config that differs from the base in what the study is about. Runs are named by their
config, so studies share those they have in common, and a study that was interrupted goes on where it stopped.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence

import ml_collections
import tensorflow as tf

from byol_tf import build, encoders
from byol_tf.evaluation import knn, linear, results
from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder
from byol_tf.evaluation.splits import Splits
from byol_tf.files import write_atomically
from byol_tf.runs import fingerprint, read_history
from byol_tf.training import pretrain

KNN, LINEAR, SPREAD, RANK = "kNN top-1", "linear top-1", "projection std", "effective rank"


@dataclasses.dataclass(frozen=True, eq=False)  # Hashed by identity: overrides are a dict.
class Cell:
    """One run of a study.

    Attributes:
        line: the curve it belongs to, such as a method.
        point: its place along the curve, such as a batch size.
        overrides: dotted config field -> value, from the base config to this run's.
    """

    line: str
    point: str
    overrides: dict[str, object]

    def config(self, base: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
        """The base config with the overrides."""
        config = ml_collections.ConfigDict(base.to_dict())
        config.update_from_flattened_dict(self.overrides)
        return config


# With SimCLR's own projector; views, optimizer and all else are the base's, so that methods differ in nothing else.
_METHODS = {
    "BYOL": {"method": "byol"},
    "SimCLR": {"method": "simclr", "projection_size": 128, "hidden_size": 2048},
}

_PARTS = (1, 2, 4, 8, 16, 32, 64)
_SMALLEST = 16  # Images; statistics of fewer say little.


def batch_size(base: ml_collections.ConfigDict) -> list[Cell]:
    """Figure 3a, appendix F.2: batches of B, B/2, ... B/64, at least 16, at the optimization of B.

    As in the paper, B/N means that gradients of N consecutive parts are averaged before an update: BatchNorm and, in
    SimCLR, the negatives see B/N images, the optimizer sees B.
    """
    sizes = [base.batch_size // parts for parts in _PARTS if base.batch_size >= _SMALLEST * parts]
    return [
        Cell(method, str(size), overrides | {"micro_batches": base.batch_size // size})
        for method, overrides in _METHODS.items()
        for size in sizes
    ]


def augmentations(base: ml_collections.ConfigDict) -> list[Cell]:
    """Figure 3b, appendix F.3: augmentations taken away, up to crops alone."""
    del base
    no_color = {"jitter_prob": 0.0, "grayscale_prob": 0.0}
    only_crop = no_color | {"flip_prob": 0.0, "solarize_prob": 0.0}
    sets = {
        "baseline": ({}, {}),
        "no grayscale": ({"grayscale_prob": 0.0},) * 2,
        "no color": (no_color,) * 2,
        # The paper's blur, also where the base has none.
        "crop and blur only": (only_crop | {"blur_prob": 1.0}, only_crop | {"blur_prob": 0.1}),
        "crop only": (only_crop | {"blur_prob": 0.0},) * 2,
    }
    return [
        Cell(
            method,
            name,
            overrides
            | {f"augment.view_1.{field}": value for field, value in view_1.items()}
            | {f"augment.view_2.{field}": value for field, value in view_2.items()},
        )
        for method, overrides in _METHODS.items()
        for name, (view_1, view_2) in sets.items()
    ]


def target_ema(base: ml_collections.ConfigDict) -> list[Cell]:
    """Table 5: how slowly the target follows, from at once (τ = 0) to never (1), with and without predictor.

    As in the paper τ₀ is where the cosine to 1 starts, and τ = 0 stays 0.
    """
    del base
    return [
        Cell(
            line, f"{tau:g}", {"base_ema": tau, "constant_ema": tau == 0.0, "predictor": predictor}
        )
        for line, predictor in (("with predictor", True), ("without predictor", False))
        for tau in (0.0, 0.9, 0.99, 0.996, 0.999, 1.0)
    ]


def method(base: ml_collections.ConfigDict) -> list[Cell]:
    """BYOL and SimCLR, all else equal."""
    del base
    return [Cell(name, "base", overrides) for name, overrides in _METHODS.items()]


STUDIES: dict[str, Callable[[ml_collections.ConfigDict], Sequence[Cell]]] = {
    "batch_size": batch_size,
    "augmentations": augmentations,
    "target_ema": target_ema,
    "method": method,
}


class Ablation:
    """Runs cells, each once, whatever study asks for it.

    Args:
        data_dir: images to pretrain on.
        splits: labelled images to evaluate on.
        protocols: of configs/evaluation.py; knn and linear are run.
        output_dir: gets `runs/`, a folder a run, named by all that decides its figures.
    """

    def __init__(
        self, data_dir: str, splits: Splits, protocols: ml_collections.ConfigDict, output_dir: str
    ):
        self.data_dir = data_dir
        self.splits = splits
        self.protocols = protocols
        self.output_dir = output_dir

    def figures(self, config: ml_collections.ConfigDict) -> dict[str, float]:
        """Pretrains and evaluates, or reads what an earlier call measured.

        Returns:
            Accuracies in [0, 1] and the collapse measures of the last epoch, by header.

        Raises:
            UserError: as `pretrain.pretrain` and the protocols.
        """

        def measure(run_dir):
            pretrain.pretrain(config, self.data_dir, run_dir)
            last = read_history(run_dir)[-1]
            return self._accuracies(encoders.from_run(run_dir)) | {
                SPREAD: float(last["projection_std"]),
                RANK: float(last["effective_rank"]),
            }

        return self._once({"pretrain": config.to_dict(), "data": self.data_dir}, measure)

    def untrained_figures(self, config: ml_collections.ConfigDict) -> dict[str, float]:
        """Accuracies of the encoder before training: what a collapsed run is read against."""

        def measure(run_dir):
            tf.io.gfile.makedirs(run_dir)
            preprocessing = build.preprocessing_from_config(config)
            return self._accuracies(encoders.random_encoder(config, preprocessing))

        seeded = {"encoder": config.encoder.to_dict(), "seed": config.seed}
        return self._once({"untrained": seeded}, measure)

    def _accuracies(self, encoder: EvaluatedEncoder) -> dict[str, float]:
        return {
            KNN: knn.evaluate(encoder, self.splits, self.protocols.knn).top_1,
            LINEAR: linear.evaluate(encoder, self.splits, self.protocols.linear).top_1,
        }

    def _once(self, described: dict, measure: Callable[[str], dict]) -> dict[str, float]:
        described |= {
            "protocols": {name: self.protocols[name].to_dict() for name in ("knn", "linear")},
            "train": self.splits.train,
            "test": self.splits.test,
        }
        run_dir = os.path.join(self.output_dir, "runs", fingerprint(described))
        path = os.path.join(run_dir, "figures.json")
        if tf.io.gfile.exists(path):
            with tf.io.gfile.GFile(path) as file:
                return json.load(file)["figures"]
        start = time.monotonic()
        figures = measure(run_dir)
        record = described | {"figures": figures, "seconds": round(time.monotonic() - start, 1)}
        text = json.dumps(record | results.environment(), indent=2)
        write_atomically(path, text + "\n")
        return figures

"""The paper's ablations (section 5): the effect of changing one setting of a method.

A study is a set of runs whose configs differ from the base in the setting under study. Runs are
named by their config, so studies share runs they have in common, and an interrupted study resumes.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

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


@dataclasses.dataclass(frozen=True, eq=False)  # Hashed by identity, as overrides are a dict.
class Cell:
    """One run of a study.

    Attributes:
        line: Curve that it belongs to, such as a method.
        point: Position along the curve, such as a batch size.
        overrides: Values by dotted config field that turn the base config into this run's.
    """

    line: str
    point: str
    overrides: dict[str, Any]

    def config(self, base: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
        """Returns the base config with the overrides."""
        config = ml_collections.ConfigDict(base.to_dict())
        config.update_from_flattened_dict(self.overrides)
        return config


# Overrides by display name. SimCLR has its own projector; views, optimizer and all else are the
# base's, so that methods differ in nothing else.
_METHODS: dict[str, dict[str, Any]] = {
    build.METHODS["byol"].display_name: {"method": "byol"},
    build.METHODS["simclr"].display_name: {
        "method": "simclr",
        "projection_size": 128,
        "hidden_size": 2048,
    },
}

_PARTS = (1, 2, 4, 8, 16, 32, 64)
_SMALLEST = 16  # Images; statistics of fewer are unreliable.


def batch_size(base: ml_collections.ConfigDict) -> list[Cell]:
    """Returns figure 3a, appendix F.2: batches of B, B/2, ... B/64, at least 16, optimized as B.

    As in the paper, B/N means that gradients of N independent micro-batches are averaged before an
    update: BatchNorm and, in SimCLR, the negatives see B/N images, the optimizer sees B.
    """
    sizes = [base.batch_size // parts for parts in _PARTS if base.batch_size >= _SMALLEST * parts]
    return [
        Cell(method, str(size), overrides | {"micro_batches": base.batch_size // size})
        for method, overrides in _METHODS.items()
        for size in sizes
    ]


def augmentations(base: ml_collections.ConfigDict) -> list[Cell]:
    """Returns figure 3b, appendix F.3: augmentations removed one by one, down to crops only."""
    del base
    no_color: dict[str, float] = {"jitter_prob": 0.0, "grayscale_prob": 0.0}
    only_crop = no_color | {"flip_prob": 0.0, "solarize_prob": 0.0}
    sets = {
        "baseline": ({}, {}),
        "no grayscale": ({"grayscale_prob": 0.0},) * 2,
        "no color": (no_color,) * 2,
        # The paper's blur, even if the base has none.
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
    """Returns table 5: targets from a copy (τ = 0) to constant (1), with and without predictor.

    As in the paper, τ₀ is where the cosine to 1 starts, and τ = 0 stays 0.
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
    """Returns BYOL and SimCLR, all else equal."""
    del base
    return [Cell(name, "base", overrides) for name, overrides in _METHODS.items()]


STUDIES: dict[str, Callable[[ml_collections.ConfigDict], Sequence[Cell]]] = {
    "batch_size": batch_size,
    "augmentations": augmentations,
    "target_ema": target_ema,
    "method": method,
}


class Ablation:
    """Runs of cells, each made only once for all studies.

    Args:
        data_dir: Images to pretrain on.
        splits: Labelled images to evaluate on.
        protocols: Config of configs/evaluation.py; knn and linear are run.
        output_dir: Folder for `runs/`, with one folder per run, named by everything that decides
            its figures.
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
            UserError: What `pretrain.pretrain` and the protocols raise.
        """

        def measure(run_dir: str) -> dict[str, float]:
            pretrain.pretrain(config, self.data_dir, run_dir)
            last = read_history(run_dir)[-1]
            return self._accuracies(encoders.from_run(run_dir)) | {
                SPREAD: float(last["projection_std"]),
                RANK: float(last["effective_rank"]),
            }

        return self._once({"pretrain": config.to_dict(), "data": self.data_dir}, measure)

    def untrained_figures(self, config: ml_collections.ConfigDict) -> dict[str, float]:
        """Returns accuracies of the encoder before training, to compare a collapsed run with."""

        def measure(run_dir: str) -> dict[str, float]:
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

    def _once(
        self, described: dict[str, Any], measure: Callable[[str], dict[str, float]]
    ) -> dict[str, float]:
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

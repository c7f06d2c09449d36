"""byol-ablate: runs one of the paper's ablations and makes its table and plot.

The same command resumes an interrupted study.

    byol-ablate --study=target_ema --config=cifar10 --data_dir=photos/train \\
        --test_dir=photos/test --output_dir=ablations
"""

import json
import os
import sys

from absl import flags, logging

from byol_tf.choices import STUDIES
from byol_tf.cli import import_tensorflow, recipe, run_main
from byol_tf.configs import evaluation

_FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    """Runs the command; see `--help`."""
    del argv
    base = recipe.resolve_config(_FLAGS["config"])  # Before TensorFlow is imported.
    import_tensorflow()
    from byol_tf.ablation import report, studies
    from byol_tf.evaluation import results
    from byol_tf.evaluation.cache import FeatureCache
    from byol_tf.evaluation.splits import Splits
    from byol_tf.files import write_atomically

    output_dir = _FLAGS.output_dir
    splits = Splits(
        _FLAGS.train_dir or _FLAGS.data_dir,
        _FLAGS.test_dir,
        cache=FeatureCache(os.path.join(output_dir, "features")),
    )
    _ = splits.sources  # Opened first, so that a typo does not cost hours.
    protocols = evaluation.get_config()
    protocols.linear.views = 0
    grid = studies.Ablation(_FLAGS.data_dir, splits, protocols, output_dir)
    cells = studies.STUDIES[_FLAGS.study](base)
    seeds = [int(seed) for seed in _FLAGS.seeds]
    measured: dict[studies.Cell, list[dict[str, float]]] = {cell: [] for cell in cells}
    untrained = []
    for seed in seeds:
        base.seed = seed
        untrained.append(grid.untrained_figures(base))
        for number, cell in enumerate(cells, 1):
            logging.info(
                "seed %d, run %d of %d: %s, %s", seed, number, len(cells), cell.line, cell.point
            )
            measured[cell].append(grid.figures(cell.config(base)))

    table = report.table(measured, untrained)
    command = recipe.command_line("byol-ablate")
    record = {
        "command": command,
        "study": _FLAGS.study,
        "seeds": seeds,
        "cells": [
            {
                "line": cell.line,
                "point": cell.point,
                "overrides": dict(cell.overrides),
                "by_seed": figures,
            }
            for cell, figures in measured.items()
        ],
        "untrained": untrained,
        "base": base.to_dict(),
    } | results.environment()
    stem = os.path.join(output_dir, _FLAGS.study)
    report.plot(_FLAGS.study, measured, untrained, f"{stem}.png")
    write_atomically(f"{stem}.md", f"{table}\n\n`{command}`\n")
    write_atomically(f"{stem}.json", json.dumps(record, indent=2) + "\n")
    print(f"{table}\n\nTable, plot and record are {stem}.md, .png and .json.")


def run() -> None:
    """Defines the flags and runs the command; the console entry point."""
    sys.argv = recipe.with_config_paths(sys.argv)
    _define_flags()
    run_main(main)


def _define_flags() -> None:
    recipe.define_config()
    flags.DEFINE_enum(
        "study",
        None,
        STUDIES,
        "Setting to vary. batch_size: B to B/64, BYOL and SimCLR. augmentations: removed one by "
        "one, BYOL and SimCLR. target_ema: τ₀ from 0 to 1, with and without predictor. method: "
        "BYOL and SimCLR.",
        required=True,
    )
    flags.DEFINE_string(
        "data_dir", None, "Images to pretrain on, as byol-pretrain takes them.", required=True
    )
    flags.DEFINE_string(
        "train_dir",
        None,
        "Labelled images to train classifiers on; by default those of --data_dir.",
    )
    flags.DEFINE_string(
        "test_dir", None, "Labelled test images of the same classes.", required=True
    )
    flags.DEFINE_string(
        "output_dir",
        None,
        "Folder for runs, tables and plots. Studies in the same folder share their common runs.",
        required=True,
    )
    flags.DEFINE_list("seeds", ["0"], "Seeds of the runs; tables give mean and range over them.")
    flags.register_validator(
        "seeds",
        lambda seeds: seeds and all(seed.isdecimal() for seed in seeds),
        "give whole numbers, separated by commas",
    )


if __name__ == "__main__":
    run()

"""byol-evaluate: evaluates a pretrained encoder with the paper's protocols, next to baselines.

    byol-evaluate --run_dir=runs/photos --train_dir=photos/train --test_dir=photos/test --baselines
    byol-evaluate --saved_model=exported/1 --train_dir=... --test_dir=... \\
        --protocol=semi_supervised

The encoder is that of a run, or an exported SavedModel.
"""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import ml_collections
from absl import flags, logging

from byol_tf.cli import import_tensorflow, recipe, run_main
from byol_tf.configs import evaluation
from byol_tf.errors import UserError

if TYPE_CHECKING:
    from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder

_PROTOCOLS = tuple(evaluation.get_config())
_DEFAULT = ("knn", "linear")
_ON_FEATURES = ("knn", "linear", "transfer")  # Also possible with raw pixels.
# These also train a random encoder: the supervised baseline that gives the result its meaning.
_BESIDE_SUPERVISED = ("semi_supervised", "fine_tuning", "segmentation", "detection", "depth")
_FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    """Runs the command; see `--help`."""
    del argv
    start = time.monotonic()
    config = recipe.resolve_config(_FLAGS["config"])
    missing = [name for name in _FLAGS.protocol if name not in config]
    if missing:
        raise UserError(
            f"--config has no section '{missing[0]}'; give evaluation, or a file whose "
            "get_config has the sections of the protocols."
        )
    output = _output()
    import_tensorflow()
    with _feature_folder() as features:
        from byol_tf.evaluation import find_protocol, results
        from byol_tf.evaluation.cache import FeatureCache
        from byol_tf.evaluation.splits import Splits
        from byol_tf.files import write_atomically
        from byol_tf.runs import fingerprint

        pretrained, model, training_config = _pretrained()
        splits = Splits(
            _FLAGS.train_dir,
            _FLAGS.test_dir,
            seed=training_config.seed if training_config else 0,
            output_dir=output and (os.path.dirname(output) or "."),
            cache=FeatureCache(features),
        )
        protocols = {name: find_protocol(name) for name in _FLAGS.protocol}
        rows = {}
        for encoder, names in _rows(pretrained, training_config):
            logging.info("%s: %s", encoder.name, ", ".join(names))
            rows[encoder.name] = {
                name: protocols[name].evaluate(encoder, splits, config[name]) for name in names
            }
    record = results.as_record(
        rows,
        command=recipe.command_line("byol-evaluate"),
        model=model,
        config_fingerprint=fingerprint(training_config.to_dict()) if training_config else None,
        **splits.described(),
        protocols={name: config[name].to_dict() for name in protocols},
        wall_seconds=round(time.monotonic() - start, 1),
    )
    if output:
        write_atomically(output, results.as_json(record))
    print(results.as_table(record))


def run() -> None:
    """Defines the flags and runs the command; the console entry point."""
    sys.argv = recipe.with_config_paths(sys.argv, default="evaluation")
    _define_flags()
    run_main(main)


def _define_flags() -> None:
    recipe.define_config(
        "Settings of the protocols: evaluation, which has the paper's values "
        "(byol_tf/configs/evaluation.py), or the path of a Python file with get_config. Each can "
        "be overridden: --config.linear.views=80."
    )
    flags.DEFINE_string("run_dir", None, "Run of byol-pretrain to evaluate; or give --saved_model.")
    flags.DEFINE_string(
        "checkpoint",
        None,
        "Checkpoint to evaluate, its path without .index; by default the latest of the run.",
    )
    flags.DEFINE_string(
        "saved_model",
        None,
        "Encoder exported by byol-export (its version folder), instead of a run.",
    )
    flags.DEFINE_string(
        "train_dir",
        None,
        "Labelled training images: a folder with one subfolder per class, a folder or glob of "
        "TFRecords of tf.Example with image/label, or tfds:NAME[:SPLIT]; voc:ROOT:SPLIT (transfer, "
        "segmentation, detection), coco:IMAGES:ANNOTATIONS.json (detection), a folder with images/ "
        "and depth/ (depth).",
        required=True,
    )
    flags.DEFINE_string(
        "test_dir", None, "Labelled test images of the same kind and classes.", required=True
    )
    flags.DEFINE_list(
        "protocol",
        ",".join(_DEFAULT),
        f"Protocols to run, separated by commas: {', '.join(_PROTOCOLS)}. docs/evaluation.md "
        "describes them; --config.PROTOCOL.FIELD overrides a setting of one.",
    )
    flags.DEFINE_bool(
        "baselines",
        False,
        "Also evaluate the encoder before training (from the config's seed) and raw pixels.",
    )
    flags.DEFINE_string(
        "features_dir",
        None,
        "Folder in which representations are stored, so that other protocols need not encode the "
        "images again; by default features/ in the run, and none for a SavedModel.",
    )
    flags.DEFINE_string(
        "output",
        None,
        "JSON file for the results, with lists and predictions beside it; by default "
        "evaluation.json in the run, evaluation-PROTOCOL.json for other protocols, and none "
        "for a SavedModel.",
    )
    flags.mark_flags_as_mutual_exclusive(["run_dir", "saved_model"], required=True)
    flags.mark_flags_as_mutual_exclusive(["checkpoint", "saved_model"])
    flags.register_validator(
        "protocol",
        lambda names: bool(names) and set(names) <= set(_PROTOCOLS),
        f"give one or more of {', '.join(_PROTOCOLS)}, separated by commas",
    )


def _output() -> str | None:
    """Returns the path of the results, checked first so that a typo does not cost hours."""
    output = _FLAGS.output
    if output is None and _FLAGS.run_dir:
        name = "-".join(
            ["evaluation"] + ([] if tuple(_FLAGS.protocol) == _DEFAULT else _FLAGS.protocol)
        )
        output = os.path.join(_FLAGS.run_dir, f"{name}.json")
    if output and not os.path.isdir(os.path.dirname(output) or "."):
        raise UserError(
            f"there is no folder for '{output}'; create it, or correct --output or --run_dir."
        )
    return output


@contextlib.contextmanager
def _feature_folder() -> Iterator[str]:
    """Yields the folder of the cache, a temporary one if nothing is to be stored."""
    if _FLAGS.features_dir or _FLAGS.run_dir:
        yield _FLAGS.features_dir or os.path.join(_FLAGS.run_dir, "features")
    else:
        with tempfile.TemporaryDirectory(prefix="byol-features-") as folder:
            yield folder


def _pretrained() -> tuple["EvaluatedEncoder", str | None, ml_collections.ConfigDict | None]:
    """Returns the encoder, its path, and the config it was trained with (None if unknown)."""
    from byol_tf import encoders, runs

    if _FLAGS.saved_model:
        pretrained, config = encoders.from_saved_model(_FLAGS.saved_model)
        return pretrained, _FLAGS.saved_model, config
    config = runs.load_config(_FLAGS.run_dir)
    checkpoint = _FLAGS.checkpoint or runs.latest_checkpoint(_FLAGS.run_dir)
    return encoders.from_run(_FLAGS.run_dir, checkpoint), checkpoint, config


def _rows(
    pretrained: "EvaluatedEncoder", config: ml_collections.ConfigDict | None
) -> list[tuple["EvaluatedEncoder", list[str]]]:
    """Returns the encoders of the table, each with the protocols to run."""
    from byol_tf import encoders

    names = _FLAGS.protocol
    beside = names if _FLAGS.baselines else [name for name in names if name in _BESIDE_SUPERVISED]
    rows = [(pretrained, names)]
    if beside:
        if config is None:
            raise UserError(
                f"'{_FLAGS.saved_model}' has no config, which the random encoder needs; export it "
                "with byol-export, or leave out --baselines."
            )
        rows.append((encoders.random_encoder(config, pretrained.preprocessing), beside))
    of_pixels = [name for name in beside if name in _ON_FEATURES]
    if of_pixels:
        rows.append((encoders.raw_pixels(pretrained.preprocessing), of_pixels))
    return rows


if __name__ == "__main__":
    run()

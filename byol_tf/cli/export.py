"""byol-export: writes the encoder of a run as a SavedModel for TF Serving, byol-serve and TFX.

For example:

    byol-export --run_dir=runs/photos --output=exported/photos/1
"""

import json
import os

import ml_collections
from absl import flags, logging

from byol_tf.cli import import_tensorflow, run_main

_FLAGS = flags.FLAGS
_STEP = "model/step/.ATTRIBUTES/VARIABLE_VALUE"


def main(argv: list[str]) -> None:
    """Runs the command; see `--help`."""
    del argv
    logging.set_verbosity(logging.WARNING)  # TensorFlow logs every weight several times.
    import_tensorflow()
    from byol_tf import export, runs
    from byol_tf.build import preprocessing_from_config

    config = runs.load_config(_FLAGS.run_dir)
    checkpoint = _FLAGS.checkpoint or runs.latest_checkpoint(_FLAGS.run_dir)
    encoder = runs.restore_encoder(_FLAGS.run_dir, checkpoint)
    version = os.path.basename(_FLAGS.output.rstrip("/"))
    if not version.isdecimal():
        logging.warning("TF Serving needs a number as version, and '%s' is not a number.", version)
    export.save_encoder(
        encoder,
        _FLAGS.output,
        preprocessing=preprocessing_from_config(config),
        metadata={
            "checkpoint": checkpoint,
            "config": config.to_dict(),
            "evaluation": _evaluation(checkpoint),
        },
    )
    note = _unfinished(config, checkpoint) if checkpoint else ""
    print(f"The encoder is in {_FLAGS.output}{note}.")


def _unfinished(config: ml_collections.ConfigDict, checkpoint: str) -> str:
    """Returns a note with the checkpoint's step if it is not the last; empty if unknown."""
    import tensorflow as tf

    from byol_tf.models import schedules

    reader = tf.train.load_checkpoint(checkpoint)
    if not (reader.has_tensor(_STEP) and "examples" in config):
        return ""
    step = int(reader.get_tensor(_STEP))
    total = schedules.steps_per_epoch(config.examples, config.batch_size) * config.epochs
    return f" (step {step:,} of {total:,}: the training is not finished)" if step < total else ""


def _evaluation(checkpoint: str | None) -> dict | None:
    """Returns the results of byol-evaluate in the run, if they are for this checkpoint."""
    try:
        with open(os.path.join(_FLAGS.run_dir, "evaluation.json")) as file:
            record = json.load(file)
    except FileNotFoundError:
        return None
    return record if record["model"] == checkpoint else None


def run() -> None:
    """Runs the console script."""
    _define_flags()
    run_main(main)


def _define_flags() -> None:
    flags.DEFINE_string("run_dir", None, "Folder of a run of byol-pretrain.", required=True)
    flags.DEFINE_string(
        "checkpoint",
        None,
        "Path of the checkpoint to export, without .index; by default the latest of the run.",
    )
    flags.DEFINE_string(
        "output",
        None,
        "Folder of the new SavedModel, MODEL/VERSION. TF Serving serves the highest version in "
        "MODEL that is a number.",
        required=True,
    )


if __name__ == "__main__":
    run()

"""Run folders of trainings under way, outside of TFX's artifacts, which it deletes on failure.

A folder is named after what defines the training, so the same training finds its checkpoints again
after a crash. An exported run is closed: its folder goes when TFX has taken note of the export (the
local runner knows when), or when another training begins.
"""

import os

import tensorflow as tf
from absl import logging

from byol_tf.files import write_atomically
from byol_tf.runs import fingerprint

_EXPORTED = "exported"


def open_run(training_dir: str, identity: dict) -> str:
    """The run folder of a training.

    Args:
        training_dir: of all runs.
        identity: JSON; another one is another training.
    """
    run_dir = os.path.join(training_dir, fingerprint(identity))
    retire(training_dir, keep=run_dir)
    if tf.io.gfile.exists(os.path.join(run_dir, "checkpoints")):
        logging.info("continuing the training in %s", run_dir)
    return run_dir


def close_run(run_dir: str) -> None:
    """Notes that the run has been exported."""
    write_atomically(os.path.join(run_dir, _EXPORTED), "")


def retire(training_dir: str, keep: str | None = None) -> None:
    """Deletes the folders of exported runs, but `keep`."""
    if not tf.io.gfile.exists(training_dir):
        return
    for name in tf.io.gfile.listdir(training_dir):
        run_dir = os.path.join(training_dir, name.rstrip("/"))
        if run_dir != keep and tf.io.gfile.exists(os.path.join(run_dir, _EXPORTED)):
            logging.info("removing the checkpoints of an exported run: %s", run_dir)
            tf.io.gfile.rmtree(run_dir)

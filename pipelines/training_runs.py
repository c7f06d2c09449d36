"""Run folders of unfinished trainings, outside of TFX's artifacts, which TFX deletes on failure.

A folder is named after a digest of what defines the training, so the same training finds its
checkpoints again after a crash. `modules.training` opens a run, and closes it once it is exported.
The folder of a closed run is deleted by `runners.local_run` after TFX has recorded the export, or
when another training begins.
"""

import os

import tensorflow as tf
from absl import logging

from byol_tf.files import write_atomically
from byol_tf.runs import fingerprint

_EXPORTED = "exported"


def open_run(training_dir: str, identity: dict) -> str:
    """Returns the run folder of a training, and deletes those of other, exported trainings.

    Args:
        training_dir: Folder of all runs.
        identity: JSON value that defines the training.
    """
    run_dir = os.path.join(training_dir, fingerprint(identity))
    retire(training_dir, keep=run_dir)
    if tf.io.gfile.exists(os.path.join(run_dir, "checkpoints")):
        logging.info("continuing the training in %s", run_dir)
    return run_dir


def close_run(run_dir: str) -> None:
    """Marks the run as exported."""
    write_atomically(os.path.join(run_dir, _EXPORTED), "")


def retire(training_dir: str, keep: str | None = None) -> None:
    """Deletes the folders of exported runs except `keep`."""
    if not tf.io.gfile.exists(training_dir):
        return
    for name in tf.io.gfile.listdir(training_dir):
        run_dir = os.path.join(training_dir, name.rstrip("/"))
        if run_dir != keep and tf.io.gfile.exists(os.path.join(run_dir, _EXPORTED)):
            logging.info("removing the checkpoints of an exported run: %s", run_dir)
            tf.io.gfile.rmtree(run_dir)

"""Checkpoints from which a killed run continues exactly as if it had not been interrupted."""

import os

import keras
import tensorflow as tf

from byol_tf import checkpoints, keras_compat
from byol_tf.errors import UserError


class TrainingCheckpoint(keras.callbacks.Callback):
    """Saves and restores the complete state of a run.

    A checkpoint holds the model (online, target, BatchNorm statistics, classifier, step, sums of
    the running means) and the optimizer (slots, iterations, loss scale). Data, augmentation,
    learning rate and τ are functions of the seed and the step, so nothing else has to be saved for
    the continued run to equal the uninterrupted one. TensorFlow writes a checkpoint under temporary
    names and renames it, so a kill at any moment leaves the last complete one.

    Args:
        folder: Folder of the checkpoints, shared by all workers; the last two are kept.
        model: Compiled `TwoViewModel`.
        every_steps: Number of steps between two checkpoints; each epoch ends with one as well.
        chief: Whether this worker writes to `folder`. Saving gathers variables from all workers, so
            the others take part and write to a scratch folder beside it.

    Raises:
        UserError: every_steps is below 1.
    """

    def __init__(self, folder: str, model: keras.Model, every_steps: int, chief: bool = True):
        super().__init__()
        if every_steps < 1:
            raise UserError(f"checkpoint_every_steps is {every_steps}; give at least 1.")
        self.every_steps = every_steps
        keras_compat.build_optimizer(model)
        self._checkpoint = tf.train.Checkpoint(
            model=checkpoints.trackable(model),
            optimizer=checkpoints.trackable(model.optimizer),
        )
        self._folder = folder
        self._scratch = None if chief else f"{folder}.worker-{os.getpid()}.tmp"
        self._manager: tf.train.CheckpointManager | None = None
        self._saved_step = 0

    def restore(self) -> int:
        """Restores the latest whole checkpoint and returns the number of steps trained so far.

        Without a checkpoint it is 0.

        Raises:
            UserError: All checkpoints are damaged, or the latest whole one belongs to another
                architecture or optimizer.
        """
        latest = checkpoints.find_latest(self._folder)
        if latest:
            checkpoints.restore(self._checkpoint, latest)
            if not self._scratch:
                # A manager keeps the last two of the list; a damaged one must not count.
                checkpoints.list_up_to(latest, self._folder)
        self._saved_step = int(self._checkpoint.model.step.numpy())
        return self._saved_step

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Saves if `every_steps` have passed; the last step of an epoch is left to its end.

        Until then the other callbacks have not logged the epoch: a run that was killed in between
        would continue without its row in history.csv.
        """
        if batch + 1 == self.params["steps"]:
            return
        if int(self.model.step.numpy()) // self.every_steps > self._saved_step // self.every_steps:
            self._save()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Saves unless the last step was saved."""
        self._save()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Removes the scratch folder of a worker that is not the chief."""
        if self._scratch and tf.io.gfile.exists(self._scratch):
            tf.io.gfile.rmtree(self._scratch)

    def _save(self) -> None:
        step = int(self.model.step.numpy())
        if step <= self._saved_step:
            return
        folder = self._scratch or self._folder
        if self._manager is None:
            self._manager = tf.train.CheckpointManager(self._checkpoint, folder, max_to_keep=2)
        try:
            self._manager.save(checkpoint_number=step)
        except (OSError, tf.errors.OpError):
            checkpoints.remove_unfinished(os.path.join(folder, f"ckpt-{step}"))
            raise
        self._saved_step = step

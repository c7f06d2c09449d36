"""The curves of a run, which a resumed run continues: TensorBoard and one CSV row per epoch."""

import csv
import io
import os

import keras
import tensorflow as tf
from tensorflow.compat.v1 import SummaryMetadata

from byol_tf import runs
from byol_tf.files import write_atomically

# What `tf.summary.scalar` writes, which needs an installed TensorBoard from TensorFlow 2.20 on.
_SCALAR = SummaryMetadata(
    plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"), data_class="DATA_CLASS_SCALAR"
)


class History(keras.callbacks.Callback):
    """Writes all logs: loss, lr, ema (τ), projection_std, online_accuracy and more.

    Callbacks before this one add effective_rank and knn_accuracy at an epoch's end. Steps count
    from the start of the run. Keras's TensorBoard and CSVLogger count from the start of the process
    and repeat an epoch that was killed between its row and its checkpoint; here rows beyond the
    restored step are dropped.

    Args:
        run_dir: Folder that gets `logs/` (TensorBoard) and `history.csv`.
        start_step: Number of steps already trained.
        every_steps: Number of steps between two TensorBoard points within an epoch; their values
            are the epoch's mean so far.
    """

    def __init__(self, run_dir: str, start_step: int, every_steps: int = 50):
        super().__init__()
        self.every_steps = every_steps
        self._path = os.path.join(run_dir, "history.csv")
        self._rows = [row for row in runs.read_history(run_dir) if int(row["step"]) <= start_step]
        self._writer = tf.summary.create_file_writer(os.path.join(run_dir, "logs"))

    def on_train_batch_end(self, batch: int, logs: dict) -> None:
        """Writes a TensorBoard point if `every_steps` have passed."""
        if (batch + 1) % self.every_steps == 0:
            self._write_scalars(logs)

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Writes a TensorBoard point and the epoch's row of history.csv."""
        self._write_scalars(logs)
        self._writer.flush()
        step = int(self.model.step.numpy())
        self._rows.append(
            {"epoch": str(epoch + 1), "step": str(step)} | {k: f"{v:.6g}" for k, v in logs.items()}
        )
        columns = list(dict.fromkeys(name for row in self._rows for name in row))
        text = io.StringIO()
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(self._rows)
        write_atomically(self._path, text.getvalue())

    def _write_scalars(self, logs: dict) -> None:
        step = int(self.model.step.numpy())
        with self._writer.as_default():
            for name, value in logs.items():
                tf.summary.write(name, tf.cast(value, tf.float32), step=step, metadata=_SCALAR)

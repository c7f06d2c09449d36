"""A warning of views that are not normalised: training on them goes on, and learns little."""

from collections.abc import Sequence

import tensorflow as tf
from absl import logging

# In standard deviations of the image set; no pixel of normalised images comes near.
_LARGEST = 30.0


class ViewCheck:
    """Warns once of integer views, as a step is traced, or of large ones, after the first batch.

    Not a part of Keras's or of TensorFlow's object graph: it leaves models and checkpoints as they
    are.

    Attributes:
        reported: Whether `report` was called.
    """

    def __init__(self):
        self.reported = False
        self._warned = False
        # Negative until it is known. Each replica has its own, which needs no communication.
        self._largest = tf.Variable(
            -1.0,
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )

    def look_at(self, views: Sequence[tf.Tensor]) -> None:
        """Notes the largest magnitude of the first batch; later batches are not looked at.

        Args:
            views: Views `[B, H, W, 3]` of a step that is traced or run.
        """
        if any(tf.as_dtype(view.dtype).is_integer for view in views):  # Keras 3 gives arrays, too.
            self._warn(f"are {views[0].dtype.name}")
            return

        def largest():
            magnitudes = [tf.reduce_max(tf.abs(view)) for view in views]
            return tf.reduce_max([tf.cast(magnitude, tf.float32) for magnitude in magnitudes])

        # XLA compiles this, as it would not a Python function or a message.
        self._largest.assign(tf.cond(self._largest < 0, largest, lambda: self._largest + 0.0))

    def report(self) -> None:
        """Warns if the first batch is too large; waits for its step."""
        self.reported = True
        largest = float(self._largest.read_value())
        if largest > _LARGEST:
            self._warn(f"reach {largest:.0f}")

    def _warn(self, what: str) -> None:
        if not self._warned:  # The step is traced several times.
            self._warned = True
            logging.warning(
                "the views %s; encoders expect normalised floats, with a mean near 0 and a "
                "standard deviation near 1.",
                what,
            )

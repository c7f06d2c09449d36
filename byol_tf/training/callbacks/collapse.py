"""Detection of a collapse, all images mapped to one point or to few dimensions, during training."""

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from byol_tf.errors import UserError
from byol_tf.models.collapse import effective_rank


class CollapseMonitor(keras.callbacks.Callback):
    """Watches the projections' spread at every step and the representation's rank at epoch ends.

    `projection_std`, logged by the model itself, is the `spread` of the projections: 1 if they fill
    the sphere evenly, 0 in a collapse. `effective_rank`, added to the epoch's logs, counts the
    dimensions the representation uses. A warning is logged when the spread falls below `min_std`,
    and again only after it has recovered. A loss that is not finite ends the run.

    Args:
        images: Normalised images for the rank, float `[M, H, W, 3]`; None leaves the rank out. It
            costs one forward pass and an SVD of `[M, D]` per epoch.
        min_std: Smallest healthy spread, in (0, 1); healthy runs were between 0.5 and 1 after
            warm-up.
    """

    def __init__(self, images: tf.Tensor | None = None, min_std: float = 0.1):
        super().__init__()
        self.images = images
        self.min_std = min_std
        self._collapsed = False
        self._steps = 0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Notes the epoch, for messages."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict) -> None:
        """Checks loss and spread.

        Raises:
            UserError: The loss is not finite.
        """
        if not np.isfinite(logs["loss"]):
            raise UserError(
                f"the loss is {logs['loss']} at step {batch} of epoch {self._epoch + 1}; look for "
                "NaN or infinite pixels in the images, or lower the learning rate. The last "
                "checkpoint is from before this step."
            )
        collapsed = logs["projection_std"] < self.min_std
        if collapsed and not self._collapsed:
            logging.warning(
                "COLLAPSE: at step %d of epoch %d the projections' std is %.3f of that of an even "
                "spread (alarm below %.2f): the network maps all images to nearly one point. Check "
                "that τ is slightly below 1 and that there is a predictor, and lower the learning "
                "rate.",
                batch,
                self._epoch + 1,
                logs["projection_std"],
                self.min_std,
            )
        self._collapsed = collapsed

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Adds `effective_rank` to the logs."""
        if self.images is not None:
            logs["effective_rank"] = effective_rank(self.model(self.images, training=False).numpy())

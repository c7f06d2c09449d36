"""Collapse: all images mapped to one point, or to few dimensions. Seen while it happens, not after."""

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from byol_tf.errors import UserError
from byol_tf.models.collapse import effective_rank


class CollapseMonitor(keras.callbacks.Callback):
    """Watches the projections' spread at every step, the representation's rank at every epoch's end.

    `projection_std`, logged by BYOL itself, is the `spread` of the projections: 1 where they fill the sphere
    evenly, 0 in a collapse. `effective_rank`, added to the epoch's logs, counts the dimensions the representation
    uses. A warning is logged when the spread falls below `min_std` and again only after it has recovered. A loss
    that is not finite ends the run.

    Args:
        images: float `[M, H, W, 3]`, normalised, whose representations are ranked; None leaves the rank out. Costs
            one forward pass and an SVD of `[M, D]` an epoch.
        min_std: in (0, 1); healthy runs were seen between 0.5 and 1 after warm-up.
    """

    def __init__(self, images: tf.Tensor | None = None, min_std: float = 0.1):
        super().__init__()
        self.images = images
        self.min_std = min_std
        self._collapsed = False
        self._steps = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if not np.isfinite(logs["loss"]):
            raise UserError(
                f"the loss is {logs['loss']} at step {batch} of epoch {self._epoch + 1}; look for NaN or infinite "
                "pixels in the images, else lower the learning rate. The last checkpoint is from before."
            )
        collapsed = logs["projection_std"] < self.min_std
        if collapsed and not self._collapsed:
            logging.warning(
                "COLLAPSE: at step %d of epoch %d the projections' std is %.3f of that of an even spread (alarm below "
                "%.2f): the network maps all images to nearly one point. Check that τ is below 1 and near it, that "
                "the predictor is there, and lower the learning rate.",
                batch,
                self._epoch + 1,
                logs["projection_std"],
                self.min_std,
            )
        self._collapsed = collapsed

    def on_epoch_end(self, epoch, logs=None):
        if self.images is not None:
            logs["effective_rank"] = effective_rank(self.model(self.images, training=False).numpy())

"""SimCLR (Chen et al. 2020, arXiv 2002.05709), with which the paper compares BYOL.

Only the method differs from BYOL: one network, a contrastive loss, no target.
"""

from typing import Any

import keras
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.models import networks
from byol_tf.models.losses import nt_xent_loss
from byol_tf.models.two_view_model import Outputs, TwoViewModel


@keras.saving.register_keras_serializable("byol_tf")
class SimCLR(TwoViewModel):
    """Encoder and projector, trained by `fit()` to tell an image's other view from all other views.

    Batches, calls and saving are those of `TwoViewModel`. The views of all replicas are each
    other's negatives (section 2.1); BatchNorm is synchronised as in the paper. The projector is
    BYOL's MLP, as in the authors' comparison; SimCLR's own, of 2 layers in the paper and 3 in its
    published code, ends with one more BatchNorm.

    Args:
        encoder: Built Keras model `[B, H, W, 3]` -> `[B, D]` with `get_config`.
        total_steps: Number of steps that will be trained.
        temperature: Temperature of the softmax over similarities, above 0.
        projection_size: Width of projections.
        hidden_size: Hidden width of the projector.
        projector_layers: Number of Dense layers of the projector, at least 1.
        head_norm: Norm of the projector, `batch` or `group` (see `group_norm`).
        **options: Arguments of `TwoViewModel`: num_classes, augmentation, micro_batches, seed.

    Raises:
        UserError: An argument is outside its range, or the encoder has no `[B, D]` output.
    """

    display_name = "SimCLR"
    loss_caption = (
        "NT-Xent: how badly an image's other view is told from the views of all other images of a "
        "batch of B; ln(2B − 1) where all views look alike, as in a collapse."
    )
    CONFIG_FIELDS = (
        "temperature",
        "projection_size",
        "hidden_size",
        "projector_layers",
        "head_norm",
    )

    def __init__(
        self,
        encoder: keras.Model,
        *,
        total_steps: int,
        temperature: float = 0.1,
        projection_size: int = 128,
        hidden_size: int = 2048,
        projector_layers: int = 2,
        head_norm: str = "batch",
        **options: Any,
    ):
        super().__init__(encoder, total_steps=total_steps, **options)
        if not temperature > 0:
            raise UserError(f"temperature is {temperature}; give a number above 0.")
        self.temperature = temperature
        self.projection_size = projection_size
        self.hidden_size = hidden_size
        self.projector_layers = projector_layers
        self.head_norm = head_norm
        self.projector = networks.mlp(
            hidden_size, projection_size, "projector", projector_layers, head_norm
        )
        self.projector.build((None, self.representation_size))

    @property
    def trained(self) -> list[keras.layers.Layer]:
        """The encoder and the projector."""
        return [self.encoder, self.projector]

    def forward(self, view_1: tf.Tensor, view_2: tf.Tensor, training: bool) -> Outputs:
        """Computes NT-Xent of the two views' projections (section 2.1, equation 1)."""
        representation_1 = self.encoder(view_1, training=training)  # h  [B, D]
        # z  [B, projection_size]
        projection_1 = self.projector(representation_1, training=training)
        representation_2 = self.encoder(view_2, training=training)
        projection_2 = self.projector(representation_2, training=training)
        loss = nt_xent_loss(projection_1, projection_2, self.temperature)
        return Outputs(loss, representation_1, projection_1)

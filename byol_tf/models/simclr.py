"""SimCLR (Chen et al. 2020, arXiv 2002.05709) as a Keras model: what the paper compares BYOL with.

Shares everything with BYOL but the method: one network, a contrastive loss, no target.
"""

import keras

from byol_tf.errors import UserError
from byol_tf.models import networks
from byol_tf.models.losses import nt_xent_loss
from byol_tf.models.two_view_model import Outputs, TwoViewModel


@keras.saving.register_keras_serializable("byol_tf")
class SimCLR(TwoViewModel):
    """Encoder and projector, trained by `fit()` to tell an image's other view from all other views.

    Batches, calling and saving as `TwoViewModel`. The views of all replicas are each other's negatives
    (section 2.1); BatchNorm is synchronised as in the paper. The projector is BYOL's MLP, as in the
    authors' comparison; SimCLR's own ends in one more BatchNorm.

    Args:
        encoder: a built Keras model `[B, H, W, 3]` → `[B, D]` with `get_config`.
        total_steps: all the steps that will be trained.
        temperature: of the softmax over similarities, above 0.
        projection_size: width of projections.
        hidden_size: hidden width of the projector.
        options: as `TwoViewModel`: num_classes, augmentation, micro_batches, seed.

    Raises:
        UserError: an argument outside its range, an encoder without a `[B, D]` output.
    """

    display_name = "SimCLR"
    loss_caption = (
        "NT-Xent: how badly an image's other view is told from the views of all other images of a "
        "batch of B; ln(2B − 1) where all views look alike, as in a collapse."
    )
    CONFIG_FIELDS = ("temperature", "projection_size", "hidden_size")

    def __init__(
        self,
        encoder: keras.Model,
        *,
        total_steps: int,
        temperature: float = 0.1,
        projection_size: int = 128,
        hidden_size: int = 2048,
        **options,
    ):
        super().__init__(encoder, total_steps=total_steps, **options)
        if not temperature > 0:
            raise UserError(f"temperature is {temperature}; give a number above 0.")
        self.temperature = temperature
        self.projection_size = projection_size
        self.hidden_size = hidden_size
        self.projector = networks.mlp(hidden_size, projection_size, name="projector")
        self.projector.build((None, self.representation_size))

    @property
    def trained(self):
        return [self.encoder, self.projector]

    def forward(self, view_1, view_2, training):
        """NT-Xent of the two views' projections (section 2.1, equation 1)."""
        representation_1 = self.encoder(view_1, training=training)  # h  [B, D]
        projection_1 = self.projector(
            representation_1, training=training
        )  # z  [B, projection_size]
        representation_2 = self.encoder(view_2, training=training)
        projection_2 = self.projector(representation_2, training=training)
        loss = nt_xent_loss(projection_1, projection_2, self.temperature)
        return Outputs(loss, representation_1, projection_1)

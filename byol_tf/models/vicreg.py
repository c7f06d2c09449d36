"""VICReg (Bardes, Ponce and LeCun 2022, arXiv 2105.04906): variance, invariance, covariance."""

from typing import Any

import keras
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.models import networks
from byol_tf.models.losses import vicreg_loss
from byol_tf.models.two_view_model import Outputs, TwoViewModel


@keras.saving.register_keras_serializable("byol_tf")
class VICReg(TwoViewModel):
    """Encoder and projector (the paper's expander), whose outputs are kept spread and uncorrelated.

    Batches, calls and saving are those of `TwoViewModel`. Variances and covariances are those of
    all replicas' images, as in the authors' code.

    Args:
        encoder: Built Keras model `[B, H, W, 3]` -> `[B, D]` with `get_config`.
        total_steps: Number of steps that will be trained.
        projection_size: Width of projections; the paper has 8192.
        hidden_size: Hidden width of the projector, the same in the paper.
        projector_layers: Number of Dense layers of the projector; the paper has 3.
        head_norm: Norm of the projector, `batch` or `group` (see `group_norm`).
        invariance_weight: λ >= 0, weight of the distance between the views.
        variance_weight: μ >= 0, weight of the hinge on each variable's standard deviation.
        covariance_weight: ν >= 0, weight of the covariances.
        **options: Arguments of `TwoViewModel`: num_classes, augmentation, micro_batches, seed.

    Raises:
        UserError: An argument is outside its range, or the encoder has no `[B, D]` output.
    """

    display_name = "VICReg"
    loss_caption = (
        "Weighted sum of the distance between the views, of how far each variable's standard "
        "deviation is below 1, and of the covariances. In a collapse the second is 1 times its "
        "weight."
    )
    CONFIG_FIELDS = (
        "projection_size",
        "hidden_size",
        "projector_layers",
        "head_norm",
        "invariance_weight",
        "variance_weight",
        "covariance_weight",
    )

    def __init__(
        self,
        encoder: keras.Model,
        *,
        total_steps: int,
        projection_size: int = 8192,
        hidden_size: int = 8192,
        projector_layers: int = 3,
        head_norm: str = "batch",
        invariance_weight: float = 25.0,
        variance_weight: float = 25.0,
        covariance_weight: float = 1.0,
        **options: Any,
    ):
        super().__init__(encoder, total_steps=total_steps, **options)
        self.projection_size = projection_size
        self.hidden_size = hidden_size
        self.projector_layers = projector_layers
        self.head_norm = head_norm
        self.invariance_weight = invariance_weight
        self.variance_weight = variance_weight
        self.covariance_weight = covariance_weight
        for name in ("invariance_weight", "variance_weight", "covariance_weight"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} is {getattr(self, name)}; give a value of 0 or more.")
        self.projector = networks.mlp(
            hidden_size, projection_size, "projector", projector_layers, head_norm
        )
        self.projector.build((None, self.representation_size))

    @property
    def trained(self) -> list[keras.layers.Layer]:
        """The encoder and the projector."""
        return [self.encoder, self.projector]

    def forward(self, view_1: tf.Tensor, view_2: tf.Tensor, training: bool) -> Outputs:
        """Computes the loss of the two views' projections (section 4.1, algorithm 1)."""
        representation_1 = self.encoder(view_1, training=training)  # Y  [B, D]
        # Z  [B, projection_size]
        projection_1 = self.projector(representation_1, training=training)
        representation_2 = self.encoder(view_2, training=training)
        projection_2 = self.projector(representation_2, training=training)
        loss = vicreg_loss(
            projection_1,
            projection_2,
            self.invariance_weight,
            self.variance_weight,
            self.covariance_weight,
        )
        return Outputs(loss, representation_1, projection_1)

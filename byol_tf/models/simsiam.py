"""SimSiam (Chen and He 2021, arXiv 2011.10566): BYOL without the target network."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from byol_tf.models import multi_crop, networks
from byol_tf.models.losses import symmetric_loss
from byol_tf.models.two_view_model import Outputs, TwoViewModel


@keras.saving.register_keras_serializable("byol_tf")
class SimSiam(TwoViewModel):
    """Encoder, projector and predictor: each view predicts the other's projection, stopped.

    Batches, calls and saving are those of `TwoViewModel`. The projector ends with BatchNorm without
    scale and offset, the predictor is a bottleneck of a quarter of the hidden width (section 3).
    Dense layers have a bias where BYOL's have one; the authors' hidden ones have none, which
    BatchNorm takes out anyway, and their predictor's output has one.

    Args:
        encoder: Built Keras model `[B, H, W, 3]` -> `[B, D]` with `get_config`.
        total_steps: Number of steps that will be trained.
        projection_size: Width of projections and predictions.
        hidden_size: Hidden width of the projector, and four times that of the predictor.
        projector_layers: Number of Dense layers of the projector: 3, on CIFAR-10 2 in the paper.
        predictor_layers: Number of Dense layers of the predictor.
        head_norm: Norm of projector and predictor, `batch` or `group` (see `group_norm`).
        **options: Arguments of `TwoViewModel`: num_classes, augmentation, micro_batches, seed.

    Raises:
        UserError: An argument is outside its range, or the encoder has no `[B, D]` output.
    """

    MULTI_CROP = True
    display_name = "SimSiam"
    loss_caption = (
        "1 minus the cosine of each prediction and the other view's projection: 0 at best, 1 "
        "between random directions. It is 0 in a collapse too, so read it with the next two."
    )
    CONFIG_FIELDS = (
        "projection_size",
        "hidden_size",
        "projector_layers",
        "predictor_layers",
        "head_norm",
    )

    def __init__(
        self,
        encoder: keras.Model,
        *,
        total_steps: int,
        projection_size: int = 2048,
        hidden_size: int = 2048,
        projector_layers: int = 3,
        predictor_layers: int = 2,
        head_norm: str = "batch",
        **options: Any,
    ):
        super().__init__(encoder, total_steps=total_steps, **options)
        self.projection_size = projection_size
        self.hidden_size = hidden_size
        self.projector_layers = projector_layers
        self.predictor_layers = predictor_layers
        self.head_norm = head_norm
        self.projector = networks.mlp(
            hidden_size, projection_size, "projector", projector_layers, head_norm, output_norm=True
        )
        self.projector.build((None, self.representation_size))
        self.predictor = networks.mlp(
            hidden_size // 4, projection_size, "predictor", predictor_layers, head_norm
        )
        self.predictor.build((None, projection_size))

    @property
    def trained(self) -> list[keras.layers.Layer]:
        """The encoder f (backbone), its projector and the predictor h."""
        return [self.encoder, self.projector, self.predictor]

    def forward(
        self,
        view_1: tf.Tensor,
        view_2: tf.Tensor,
        training: bool,
        small_crops: Sequence[tf.Tensor] = (),
    ) -> Outputs:
        """Computes the symmetrised loss (section 3, equation 4, algorithm 1), plus 1.

        Predictions of small crops are compared with both views' projections.
        """
        representation_1 = self.encoder(view_1, training=training)
        projection_1 = self.projector(representation_1, training=training)  # z  [B, P]
        representation_2 = self.encoder(view_2, training=training)
        projection_2 = self.projector(representation_2, training=training)
        prediction_1 = self.predictor(projection_1, training=training)  # p  [B, P]
        prediction_2 = self.predictor(projection_2, training=training)
        distances = symmetric_loss(
            prediction_1,
            tf.stop_gradient(projection_2),
            prediction_2,
            tf.stop_gradient(projection_1),
            multi_crop.predictions(self.trained, small_crops, training),
        )
        # The sum of two squared distances 2 - 2 cos; the paper has half the sum of both -cos.
        return Outputs(distances / 4, representation_1, projection_1)

"""A third method, as a user would add it: SimSiam (Chen and He 2021, arXiv 2011.10566)."""

import keras
import tensorflow as tf

from byol_tf.models import networks
from byol_tf.models.losses import symmetric_loss
from byol_tf.models.two_view_model import Outputs, TwoViewModel


@keras.saving.register_keras_serializable("simsiam")
class SimSiam(TwoViewModel):
    """Encoder, projector and predictor, trained to predict the other view's stopped projection."""

    display_name = "SimSiam"
    loss_caption = (
        "Squared distance between each prediction and the other view's stopped projection."
    )
    CONFIG_FIELDS = ("projection_size", "hidden_size")

    def __init__(self, encoder, *, projection_size, hidden_size, **options):
        super().__init__(encoder, **options)
        self.projection_size, self.hidden_size = projection_size, hidden_size
        self.projector = networks.mlp(hidden_size, projection_size, name="projector")
        self.projector.build((None, self.representation_size))
        self.predictor = networks.mlp(hidden_size // 4, projection_size, name="predictor")
        self.predictor.build((None, projection_size))

    @property
    def trained(self):
        return [self.encoder, self.projector, self.predictor]

    def forward(self, view_1, view_2, training):
        representation = self.encoder(view_1, training=training)
        z_1 = self.projector(representation, training=training)
        z_2 = self.projector(self.encoder(view_2, training=training), training=training)
        p_1, p_2 = (self.predictor(z, training=training) for z in (z_1, z_2))
        loss = symmetric_loss(p_1, tf.stop_gradient(z_2), p_2, tf.stop_gradient(z_1))
        return Outputs(loss, representation, z_1)

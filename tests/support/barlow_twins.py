"""A method as a user would add it: Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230)."""

import keras
import tensorflow as tf

from byol_tf.models import networks
from byol_tf.models.two_view_model import Outputs, TwoViewModel


@keras.saving.register_keras_serializable("barlow_twins")
class BarlowTwins(TwoViewModel):
    """Encoder and projector; the views' cross-correlation is pulled to the identity."""

    display_name = "Barlow Twins"
    loss_caption = "Squared distance of the views' cross-correlation matrix from the identity."
    CONFIG_FIELDS = ("projection_size", "hidden_size")

    def __init__(self, encoder, *, projection_size, hidden_size, **options):
        super().__init__(encoder, **options)
        self.projection_size, self.hidden_size = projection_size, hidden_size
        self.projector = networks.mlp(hidden_size, projection_size, "projector", output_norm=True)
        self.projector.build((None, self.representation_size))

    @property
    def trained(self):
        return [self.encoder, self.projector]

    def forward(self, view_1, view_2, training):
        representation = self.encoder(view_1, training=training)
        z_1 = self.projector(representation, training=training)  # Standardised over the batch.
        z_2 = self.projector(self.encoder(view_2, training=training), training=training)
        count = tf.cast(tf.shape(z_1)[0], tf.float32)
        correlation = tf.cast(tf.matmul(z_1, z_2, transpose_a=True), tf.float32) / count
        squares = tf.square(correlation - tf.eye(self.projection_size))
        weights = 0.0051 + (1 - 0.0051) * tf.eye(self.projection_size)
        return Outputs(tf.reduce_sum(weights * squares), representation, z_1)

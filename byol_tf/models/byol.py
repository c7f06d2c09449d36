"""Bootstrap Your Own Latent (arXiv 2006.07733) as a Keras model.

The code follows Algorithm 1. θ are the weights of the online network (encoder f, projector g,
predictor q), ξ those of the target network (encoder, projector); the target gets no gradient and
follows θ as an exponential moving average. `train_step`, which is the same for every method of two
views, is in two_view_model.py.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from byol_tf import keras_compat
from byol_tf.errors import UserError
from byol_tf.models import multi_crop, networks
from byol_tf.models.losses import symmetric_loss
from byol_tf.models.moving_statistics import batch_norms
from byol_tf.models.schedules import cosine_ema
from byol_tf.models.two_view_model import Outputs, TwoViewModel


@keras.saving.register_keras_serializable("byol_tf")
class BYOL(TwoViewModel):
    """Online and target networks, trained by `fit()` on batches of two views.

    A batch is `((view_1, view_2), labels)` or `((view_1, view_2),)`: views float `[B, H, W, 3]`,
    labels int `[B]`. Small crops of another size may follow the views, for multi-crop. Calling the
    model encodes: float `[B, H, W, 3]` -> representation `[B, D]`.

    The target starts as a copy of the online encoder and projector (the paper initialises it
    separately and the authors saw no difference; a copy also suits an encoder that comes with
    weights). Each view passes through both networks separately, in training mode, so it has its own
    batch statistics; the target keeps its own moving statistics, and the moving average covers
    weights only, as in the authors' code.

    Args:
        encoder: Built Keras model `[B, H, W, 3]` -> `[B, D]` with `get_config`.
        total_steps: K of the τ schedule, normally the number of steps that will be trained.
        base_ema: τ₀ in [0, 1].
        constant_ema: Whether τ stays at τ₀ instead of following a cosine to 1; for ablations.
        projection_size: Width of projections and predictions.
        hidden_size: Hidden width of projector and predictor.
        projector_layers: Number of Dense layers of the projector, at least 1; the paper has 2.
        predictor_layers: The same of the predictor.
        head_norm: Norm of projector and predictor, `batch` or `group` (see `group_norm`).
        predictor: Whether there is a predictor q. Without it the projection itself is compared with
            the target; for ablations (table 5b, where that collapses).
        **options: Arguments of `TwoViewModel`: num_classes, augmentation, micro_batches, seed.

    Raises:
        UserError: An argument is outside its range, or the encoder has no `[B, D]` output.
    """

    MULTI_CROP = True
    display_name = "BYOL"
    loss_caption = (
        "Squared distance between prediction and target, both directions: 8 at most, 4 between "
        "random directions. It falls in a collapse too, so read it with the next two."
    )
    CONFIG_FIELDS = (
        "base_ema",
        "constant_ema",
        "projection_size",
        "hidden_size",
        "projector_layers",
        "predictor_layers",
        "head_norm",
        "predictor",
    )

    def __init__(
        self,
        encoder: keras.Model,
        *,
        total_steps: int,
        base_ema: float = 0.996,
        constant_ema: bool = False,
        projection_size: int = 256,
        hidden_size: int = 4096,
        projector_layers: int = 2,
        predictor_layers: int = 2,
        head_norm: str = "batch",
        predictor: bool = True,
        **options: Any,
    ):
        super().__init__(encoder, total_steps=total_steps, **options)
        if not 0 <= base_ema <= 1:
            raise UserError(f"base_ema is {base_ema}; the target's decay rate τ₀ lies in [0, 1].")
        self.base_ema = base_ema
        self.constant_ema = constant_ema
        self.projection_size = projection_size
        self.hidden_size = hidden_size
        self.projector_layers = projector_layers
        self.predictor_layers = predictor_layers
        self.head_norm = head_norm

        self.projector = networks.mlp(
            hidden_size, projection_size, "projector", projector_layers, head_norm
        )
        self.projector.build((None, self.representation_size))
        self.predictor = None
        if predictor:
            self.predictor = networks.mlp(
                hidden_size, projection_size, "predictor", predictor_layers, head_norm
            )
            self.predictor.build((None, projection_size))
        self.target_encoder = _copy(encoder)
        self.target_projector = _copy(self.projector)

    @property
    def trained(self) -> list[keras.layers.Layer]:
        """The networks of θ."""
        networks_of_theta = [self.encoder, self.projector, self.predictor]
        return [network for network in networks_of_theta if network is not None]

    @property
    def targets(self) -> list[keras.layers.Layer]:
        """The networks of ξ."""
        return [self.target_encoder, self.target_projector]

    def forward(
        self,
        view_1: tf.Tensor,
        view_2: tf.Tensor,
        training: bool,
        small_crops: Sequence[tf.Tensor] = (),
    ) -> Outputs:
        """Compares each view's prediction with the other's target projection (equation 2).

        Predictions of small crops are compared with both target projections.
        """
        target_1 = self._target(view_1, training)  # z′_ξ  [B, projection_size]
        target_2 = self._target(view_2, training)
        representation_1, projection_1, prediction_1 = self._online(view_1, training)
        _, _, prediction_2 = self._online(view_2, training)
        small = multi_crop.predictions(self.trained, small_crops, training)
        loss = symmetric_loss(prediction_1, target_2, prediction_2, target_1, small)
        return Outputs(loss, representation_1, projection_1)

    def after_update(self) -> dict[str, tf.Tensor]:
        """Moves the target, ξ ← τ ξ + (1 - τ) θ, and returns τ as `ema`."""
        tau = tf.constant(self.base_ema, tf.float32)
        if not self.constant_ema:
            tau = cosine_ema(self.step, self.base_ema, self.total_steps)
        self._update_target(tau)
        return {"ema": tau}

    def _online(self, view: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        representation = self.encoder(view, training=training)  # y_θ  [B, D]
        projection = self.projector(representation, training=training)  # z_θ  [B, projection_size]
        if self.predictor is None:
            return representation, projection, projection
        prediction = self.predictor(projection, training=training)  # q_θ(z_θ)
        return representation, projection, prediction

    def _target(self, view: tf.Tensor, training: bool) -> tf.Tensor:
        projection = self.target_projector(
            self.target_encoder(view, training=training), training=training
        )
        return tf.stop_gradient(projection)  # No gradient can reach ξ.

    def _update_target(self, tau: tf.Tensor) -> None:
        """Moves the target's weights, not its statistics, in float32 (the variables' own type)."""
        online = self.encoder.trainable_weights + self.projector.trainable_weights
        target = self.target_encoder.trainable_weights + self.target_projector.trainable_weights

        def update(strategy, pairs):
            for target_weight, online_weight in pairs:
                strategy.extended.update(
                    target_weight,
                    lambda ξ, θ: ξ.assign(tau * ξ + (1.0 - tau) * θ),
                    args=(online_weight,),
                    group=False,
                )

        pairs = zip(map(keras_compat.native, target), map(keras_compat.native, online), strict=True)
        _update_once(update, list(pairs))

    def get_config(self) -> dict:
        """Returns the constructor's arguments as plain data."""
        return super().get_config() | {"predictor": self.predictor is not None}


def _update_once(
    update: Callable[[tf.distribute.Strategy, Any], None], pairs: list[tuple[tf.Variable, ...]]
) -> None:
    """Calls `update` once for all replicas of the current strategy.

    TensorFlow has no public function for it; Keras's optimizers use this one.
    """
    tf.__internal__.distribute.interim.maybe_merge_call(update, tf.distribute.get_strategy(), pairs)


def _copy(model: keras.Model) -> keras.Model:
    """Returns a second model of the same architecture with its own weights, equal to `model`'s."""
    copy = type(model).from_config(model.get_config())
    if not copy.built:
        copy.build(model.input_shape)
    copy.set_weights(model.get_weights())
    # Keras 2.15 leaves `synchronized` out of BatchNormalization's config.
    for layer, copied in zip(batch_norms(model), batch_norms(copy), strict=True):
        if layer.synchronized and not copied.synchronized:
            networks.synchronize(copied)
    return copy

"""LARS (You et al. 2017, arXiv 1708.03888) as BYOL's authors use it, and optimizers by name."""

from typing import Any

import keras
import ml_collections
import tensorflow as tf

from byol_tf import keras_compat
from byol_tf.errors import UserError
from byol_tf.models import lamb


class MomentumOptimizer(keras_compat.Optimizer):
    """A Keras optimizer with one momentum buffer per variable and coupled weight decay.

    A subclass implements `update(gradient, variable, rate, momentum)`, usually from `decayed`.

    Args:
        learning_rate: Float or `LearningRateSchedule`.
        weight_decay: Factor λ >= 0 of the weight that is added to its gradient. Keras's own
            `weight_decay` is decoupled instead.
        momentum: μ in [0, 1).
        name: Name of the optimizer.
        **kwargs: Arguments of `keras.optimizers.Optimizer` (clipnorm, jit_compile, ...).

    Raises:
        UserError: A value is outside its range.
    """

    SLOTS = ("m",)

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
        weight_decay: float,
        momentum: float,
        name: str,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, name, **kwargs)
        if not weight_decay >= 0:
            raise UserError(f"weight_decay is {weight_decay}; give a value of 0 or more.")
        if not 0 <= momentum < 1:
            raise UserError(f"momentum is {momentum}; give a value in [0, 1).")
        # Not called `weight_decay`: Keras would subtract that from the variable a second time.
        self.coupled_weight_decay = weight_decay
        self.momentum = momentum

    def decayed(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> tf.Tensor:
        """Returns the dense gradient plus λ times the weight.

        Biases and normalisation parameters, that is variables of rank 0 or 1, have no decay.
        """
        gradient = tf.convert_to_tensor(gradient)  # An embedding's gradient is sparse.
        if variable.shape.rank > 1:
            gradient += self.coupled_weight_decay * variable
        return gradient

    def get_config(self) -> dict:
        """Returns the constructor's arguments as plain data."""
        return super().get_config() | {
            "weight_decay": self.coupled_weight_decay,
            "momentum": self.momentum,
        }


@keras.saving.register_keras_serializable("byol_tf")
class LARS(MomentumOptimizer):
    """Layer-wise adaptive rate scaling with heavy-ball momentum.

    For a weight w with gradient g, rate γ, weight decay β, trust coefficient η and momentum μ:

        u ← g + β w
        u ← η ‖w‖/‖u‖ · u          (factor 1 where either norm is 0)
        m ← μ m + u
        w ← w - γ m                (the rate stays outside the momentum buffer)

    This is the order of the authors' code; other implementations differ (rate inside the buffer,
    ‖g‖ + β‖w‖ as the divisor). Biases and normalisation parameters, that is every variable of rank
    0 or 1, get neither decay nor scaling: m ← μ m + g.

    The ratio is not linear in g, so with gradient accumulation pass the accumulated mean to
    `apply_gradients`.

    Args:
        learning_rate: Float or `LearningRateSchedule`; for a batch B the paper uses base · B / 256.
        weight_decay: β >= 0; coupled (in the gradient), unlike Keras's own `weight_decay`.
        momentum: μ in [0, 1).
        trust_coefficient: η > 0.
        name: Name of the optimizer.
        **kwargs: Arguments of `keras.optimizers.Optimizer` (clipnorm, jit_compile, ...).

    Raises:
        UserError: A value is outside its range.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.2,
        weight_decay: float = 1.5e-6,
        momentum: float = 0.9,
        trust_coefficient: float = 1e-3,
        name: str = "LARS",
        **kwargs: Any,
    ):
        super().__init__(learning_rate, weight_decay, momentum, name, **kwargs)
        if not trust_coefficient > 0:
            raise UserError(f"trust_coefficient is {trust_coefficient}; give a value above 0.")
        self.trust_coefficient = trust_coefficient

    def update(
        self,
        gradient: tf.Tensor | tf.IndexedSlices,
        variable: tf.Variable,
        rate: tf.Tensor,
        *slots: tf.Variable,
    ) -> None:
        """Updates one variable and its momentum buffer."""
        (momentum,) = slots
        update = self.decayed(gradient, variable)
        if variable.shape.rank > 1:
            update *= self._trust_ratio(variable, update)
        momentum.assign(self.momentum * momentum + update)
        variable.assign_sub(rate * momentum)

    def _trust_ratio(self, variable: tf.Variable, update: tf.Tensor) -> tf.Tensor:
        weight_norm = tf.norm(variable)
        update_norm = tf.norm(update)
        ratio = self.trust_coefficient * tf.math.divide_no_nan(weight_norm, update_norm)
        return tf.where(weight_norm * update_norm > 0, ratio, 1.0)

    def get_config(self) -> dict:
        """Returns the constructor's arguments as plain data."""
        return super().get_config() | {"trust_coefficient": self.trust_coefficient}


def build_optimizer(
    config: ml_collections.ConfigDict,
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
) -> keras.optimizers.Optimizer:
    """Returns the optimizer of `config.optimizer`.

    Args:
        config: Config with `optimizer.{name, weight_decay, momentum, trust_coefficient}`; `name` is
            `lars` or `lamb` (`lamb.lamb`, the alternative for large batches; β₁ is
            `momentum`).
        learning_rate: Float or schedule.

    Raises:
        UserError: The name is unknown, or `lamb` is not installed.
    """
    settings = config.optimizer
    if settings.name == "lars":
        return LARS(
            learning_rate,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            trust_coefficient=settings.trust_coefficient,
        )
    if settings.name == "lamb":
        try:
            return lamb.lamb(learning_rate, settings.weight_decay, settings.momentum)
        except ImportError as error:
            raise UserError(
                f"optimizer.name is 'lamb', which needs TensorFlow Addons ({error}); install "
                "byol_tf[addons], or give 'lars'."
            ) from error
    raise UserError(f"optimizer.name is '{settings.name}'; give 'lars' or 'lamb'.")

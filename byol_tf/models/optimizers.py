"""Optimizers by name: LARS as BYOL's authors use it or clipped (LARC), LAMB, AdamW, SGD."""

from collections.abc import Sequence
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
class SGD(MomentumOptimizer):
    """Heavy-ball momentum with coupled weight decay, as PyTorch's SGD computes it.

    For a weight w with gradient g, rate γ, weight decay λ and momentum μ:

        m ← μ m + g + λ w
        w ← w - γ m                (the rate stays outside the buffer; in Keras's SGD it is inside)

    Variables of rank 0 or 1 have no decay; PyTorch decays them too unless told otherwise.

    Args:
        learning_rate: Float or `LearningRateSchedule`.
        weight_decay: λ >= 0.
        momentum: μ in [0, 1).
        name: Name of the optimizer.
        **kwargs: Arguments of `keras.optimizers.Optimizer` (clipnorm, jit_compile, ...).

    Raises:
        UserError: A value is outside its range.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.05,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        name: str = "SGD",
        **kwargs: Any,
    ):
        super().__init__(learning_rate, weight_decay, momentum, name, **kwargs)

    def update(
        self,
        gradient: tf.Tensor | tf.IndexedSlices,
        variable: tf.Variable,
        rate: tf.Tensor,
        *slots: tf.Variable,
    ) -> None:
        """Updates one variable and its momentum buffer."""
        (momentum,) = slots
        momentum.assign(self.momentum * momentum + self.decayed(gradient, variable))
        variable.assign_sub(rate * momentum)


@keras.saving.register_keras_serializable("byol_tf")
class AdamW(keras.optimizers.AdamW):
    """Keras's AdamW, whose decoupled decay spares variables of rank 0 or 1 (biases, norms)."""

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Creates the slots, once."""
        if not getattr(self, "_built", False):
            self.exclude_from_weight_decay([v for v in var_list if len(v.shape) <= 1])
        super().build(var_list)


@keras.saving.register_keras_serializable("byol_tf")
class LARS(MomentumOptimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017, arXiv 1708.03888), heavy-ball momentum.

    For a weight w with gradient g, rate γ, weight decay β, trust coefficient η and momentum μ:

        u ← g + β w
        u ← r u,  r = η ‖w‖/‖u‖    (factor 1 where either norm is 0)
        m ← μ m + u
        w ← w - γ m                (the rate stays outside the momentum buffer)

    This is the order of the authors' code; other implementations differ (rate inside the buffer,
    ‖g‖ + β‖w‖ as the divisor). Biases and normalisation parameters, that is every variable of rank
    0 or 1, get neither decay nor scaling: m ← μ m + g.

    With `clip`, r = min(η ‖w‖/‖u‖ / γ, 1), so that the rate of a layer is η ‖w‖/‖u‖ but at most γ.
    That is LARC (NVIDIA's Apex), with which solo-learn trains its CIFAR tables, there with ‖g‖ +
    β‖w‖ as the divisor.

    The ratio is not linear in g, so with gradient accumulation pass the accumulated mean to
    `apply_gradients`.

    Args:
        learning_rate: Float or `LearningRateSchedule`; for a batch B the paper uses base · B / 256.
        weight_decay: β >= 0; coupled (in the gradient), unlike Keras's own `weight_decay`.
        momentum: μ in [0, 1).
        trust_coefficient: η > 0.
        clip: Whether the trust ratio is capped by the rate.
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
        clip: bool = False,
        name: str = "LARS",
        **kwargs: Any,
    ):
        super().__init__(learning_rate, weight_decay, momentum, name, **kwargs)
        if not trust_coefficient > 0:
            raise UserError(f"trust_coefficient is {trust_coefficient}; give a value above 0.")
        self.trust_coefficient = trust_coefficient
        self.clip = clip

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
            update *= self._trust_ratio(variable, update, rate)
        momentum.assign(self.momentum * momentum + update)
        variable.assign_sub(rate * momentum)

    def _trust_ratio(self, variable: tf.Variable, update: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
        weight_norm = tf.norm(variable)
        update_norm = tf.norm(update)
        ratio = self.trust_coefficient * tf.math.divide_no_nan(weight_norm, update_norm)
        if self.clip:
            ratio = tf.minimum(ratio / rate, 1.0)  # A rate of 0 starts the warm-up: 1.
        return tf.where(weight_norm * update_norm > 0, ratio, 1.0)

    def get_config(self) -> dict:
        """Returns the constructor's arguments as plain data."""
        return super().get_config() | {
            "trust_coefficient": self.trust_coefficient,
            "clip": self.clip,
        }


def build_optimizer(
    config: ml_collections.ConfigDict,
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
) -> keras.optimizers.Optimizer:
    """Returns the optimizer of `config.optimizer`.

    Args:
        config: Config with `optimizer.{name, weight_decay, momentum, trust_coefficient, clip}`;
            `name` is `lars`, `sgd`, `adamw` (decoupled decay) or `lamb` (`lamb.lamb`, the
            alternative for large batches). β₁ of the last two is `momentum`, their β₂ is 0.999.
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
            clip=settings.clip,
        )
    if settings.name == "sgd":
        return SGD(learning_rate, settings.weight_decay, settings.momentum)
    if settings.name == "adamw":
        return AdamW(
            learning_rate,
            weight_decay=settings.weight_decay,
            beta_1=settings.momentum,
            beta_2=0.999,
        )
    if settings.name == "lamb":
        try:
            return lamb.lamb(learning_rate, settings.weight_decay, settings.momentum)
        except ImportError as error:
            raise UserError(
                f"optimizer.name is 'lamb', which needs TensorFlow Addons ({error}); install "
                "byol_tf[addons], or give 'lars'."
            ) from error
    raise UserError(f"optimizer.name is '{settings.name}'; give 'lars', 'lamb', 'adamw' or 'sgd'.")

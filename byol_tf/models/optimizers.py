"""LARS (You et al. 2017, arXiv 1708.03888) as BYOL's authors use it, and the optimizer a config asks for."""

import keras
import tensorflow as tf

from byol_tf.errors import UserError


@keras.saving.register_keras_serializable("byol_tf")
class LARS(keras.optimizers.Optimizer):
    """Layer-wise adaptive rate scaling with heavy-ball momentum.

    For a weight w with gradient g, learning rate γ, weight decay β, trust coefficient η, momentum μ:

        u ← g + β w
        u ← η ‖w‖/‖u‖ · u          (factor 1 where either norm is 0)
        m ← μ m + u
        w ← w - γ m                (the rate stays outside the momentum buffer)

    which is the order of the authors' code; other implementations differ (rate inside the buffer, ‖g‖ + β‖w‖
    as the divisor). Biases and normalisation parameters, that is every variable of rank 0 or 1, get neither
    decay nor scaling: m ← μ m + g.

    The ratio is not linear in g, so with gradient accumulation hand `apply_gradients` the accumulated mean.

    Args:
        learning_rate: float or `LearningRateSchedule`; for a batch B the paper uses base · B / 256.
        weight_decay: β ≥ 0; coupled (in the gradient), unlike Keras's own decoupled `weight_decay`.
        momentum: μ in [0, 1).
        trust_coefficient: η > 0.
        **kwargs: those of `keras.optimizers.Optimizer` (clipnorm, jit_compile, ...).

    Raises:
        UserError: a value outside its range.
    """

    def __init__(
        self,
        learning_rate=0.2,
        weight_decay: float = 1.5e-6,
        momentum: float = 0.9,
        trust_coefficient: float = 1e-3,
        name: str = "LARS",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        if not weight_decay >= 0:
            raise UserError(f"weight_decay is {weight_decay}; give a value of 0 or more.")
        if not 0 <= momentum < 1:
            raise UserError(f"momentum is {momentum}; give a value in [0, 1).")
        if not trust_coefficient > 0:
            raise UserError(f"trust_coefficient is {trust_coefficient}; give a value above 0.")
        self._learning_rate = self._build_learning_rate(learning_rate)
        # Not the base class's `weight_decay`: Keras would subtract that from the variable a second time.
        self.coupled_weight_decay = weight_decay
        self.momentum = momentum
        self.trust_coefficient = trust_coefficient

    def build(self, var_list):
        super().build(var_list)
        if getattr(self, "_built", False):
            return
        self.momentums = [
            self.add_variable_from_reference(model_variable=variable, variable_name="m")
            for variable in var_list
        ]
        self._built = True

    def update_step(self, gradient, variable):
        momentum = self.momentums[self._index_dict[self._var_key(variable)]]
        update = tf.convert_to_tensor(gradient)  # An embedding's sparse gradient becomes dense.
        if variable.shape.rank > 1:
            update += self.coupled_weight_decay * variable
            update *= self._trust_ratio(variable, update)
        momentum.assign(self.momentum * momentum + update)
        variable.assign_sub(tf.cast(self.learning_rate, variable.dtype) * momentum)

    def _trust_ratio(self, variable, update) -> tf.Tensor:
        weight_norm = tf.norm(variable)
        update_norm = tf.norm(update)
        ratio = self.trust_coefficient * tf.math.divide_no_nan(weight_norm, update_norm)
        return tf.where(weight_norm * update_norm > 0, ratio, 1.0)

    def get_config(self):
        config = super().get_config()
        config.update(
            learning_rate=self._serialize_hyperparameter(self._learning_rate),
            weight_decay=self.coupled_weight_decay,
            momentum=self.momentum,
            trust_coefficient=self.trust_coefficient,
        )
        return config


def build_optimizer(config, learning_rate) -> keras.optimizers.Optimizer:
    """The optimizer of `config.optimizer`.

    Args:
        config: with `optimizer.{name, weight_decay, momentum, trust_coefficient}`; `name` is `lars` or `lamb`
            (tfa.optimizers.LAMB, the alternative for large batches; β₁ is `momentum`).
        learning_rate: float or schedule.

    Raises:
        UserError: an unknown name.
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
        import tensorflow_addons as tfa  # Slow to import, and nothing else in training needs it.

        excluded = ["bias", "gamma", "beta"]
        return tfa.optimizers.LAMB(
            learning_rate,
            weight_decay=settings.weight_decay,
            beta_1=settings.momentum,
            exclude_from_weight_decay=excluded,
            exclude_from_layer_adaptation=excluded,
        )
    raise UserError(f"config.optimizer.name is '{settings.name}'; give 'lars' or 'lamb'.")

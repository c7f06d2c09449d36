"""LAMB (You et al. 2019, arXiv 1904.00962): Keras 3's, and TensorFlow Addons' for Keras 2."""

from typing import Any

import keras
import tensorflow as tf

from byol_tf import keras_compat


def lamb(
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
    weight_decay: float,
    beta_1: float,
) -> keras.optimizers.Optimizer:
    """Returns LAMB (You et al. 2019, arXiv 1904.00962) with β₂ = 0.999 and ε = 1e-6.

    Biases and normalisation parameters get neither decay nor scaling.

    Raises:
        ImportError: Keras is 2, whose LAMB is in TensorFlow Addons, and they are not installed.
    """
    if keras_compat.Lamb is not None:
        return _Lamb(
            learning_rate=learning_rate, beta_1=beta_1, epsilon=1e-6, coupled_decay=weight_decay
        )
    import tensorflow_addons as tfa  # Slow to import, and nothing else needs it.

    excluded = ["bias", "gamma", "beta"]
    return tfa.optimizers.LAMB(
        learning_rate,
        weight_decay=weight_decay,
        beta_1=beta_1,
        exclude_from_weight_decay=excluded,
        exclude_from_layer_adaptation=excluded,
    )


if keras_compat.Lamb is not None:

    @keras.saving.register_keras_serializable("byol_tf", name="LAMB")
    class _Lamb(keras_compat.Lamb):
        """Keras's LAMB with the paper's decay, and exclusions.

        Keras's own decays the weight outside of the trust ratio, and scales every variable.
        """

        def __init__(self, coupled_decay: float = 0.0, name: str = "lamb", **kwargs: Any):
            super().__init__(name=name, **kwargs)
            self.coupled_decay = coupled_decay

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            """Updates one variable; Keras's own method, but for rank 2 and more."""
            variable, gradient = keras_compat.native(variable), tf.convert_to_tensor(gradient)
            index = self._get_variable_index(variable)
            m, v = (
                keras_compat.native(self._momentums[index]),
                keras_compat.native(self._velocities[index]),
            )
            m.assign(self.beta_1 * m + (1.0 - self.beta_1) * gradient)
            v.assign(self.beta_2 * v + (1.0 - self.beta_2) * tf.square(gradient))
            step = tf.cast(keras_compat.native(self._iterations) + 1, variable.dtype)
            unbiased_m = m / (1.0 - tf.pow(self.beta_1, step))
            unbiased_v = v / (1.0 - tf.pow(self.beta_2, step))
            update = unbiased_m / (tf.sqrt(unbiased_v) + self.epsilon)
            if variable.shape.rank > 1:
                update += self.coupled_decay * variable
                norms = tf.norm(variable), tf.norm(update)
                scaled = tf.math.divide_no_nan(*norms) * update
                update = tf.where(norms[0] * norms[1] > 0, scaled, update)
            variable.assign_sub(tf.cast(learning_rate, variable.dtype) * update)

        def get_config(self) -> dict:
            """Returns the constructor's arguments as plain data."""
            return super().get_config() | {"coupled_decay": self.coupled_decay}

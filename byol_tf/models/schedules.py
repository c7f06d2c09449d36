"""The schedules of BYOL: the learning rate of θ and the decay rate τ of the target network.

Paper: arXiv 2006.07733, section 3.3 (optimization) and section 3.1 (target network). Both are pure
functions of the step k = 0, 1, ..., K - 1; there is no other state, so a resumed run continues them
exactly.
"""

import math

import keras
import tensorflow as tf

from byol_tf.errors import UserError


def cosine_ema(step: int | tf.Tensor, base_ema: float, total_steps: int) -> tf.Tensor:
    """Returns the decay rate of the target network at `step`: τ = 1 - (1 - τ₀)(cos(πk/K) + 1)/2.

    Args:
        step: Integer scalar k >= 0; past K the rate stays 1.
        base_ema: τ₀ in [0, 1].
        total_steps: K.

    Returns:
        float32 scalar: τ₀ at k = 0, 1 at k = K.
    """
    progress = tf.minimum(tf.cast(step, tf.float32) / total_steps, 1.0)
    return 1.0 - (1.0 - base_ema) * (tf.cos(math.pi * progress) + 1.0) / 2.0


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Returns the number of whole batches in an epoch; at least one, which may repeat examples."""
    return max(num_examples // batch_size, 1)


def scale_lr(base_lr: float, batch_size: int) -> float:
    """Scales `base_lr`, given for a global batch of 256 images, linearly (section 3.3)."""
    return base_lr * batch_size / 256


@keras.saving.register_keras_serializable("byol_tf")
class WarmupCosine(keras.optimizers.schedules.CosineDecay):
    """A learning rate with a linear warm-up from 0, then a cosine to 0.

        k < W:   base_lr · k / W                                  k = 0 -> 0
        k >= W:  base_lr · (1 + cos(π (k - W) / (K - W))) / 2     k = W -> base_lr, k = K -> 0

    Past K the rate stays 0.

    Args:
        base_lr: Peak learning rate, at least 0, already scaled by batch / 256 (`scale_lr`).
        warmup_steps: W, 0 <= W <= K.
        total_steps: K, at least 1.

    Raises:
        UserError: A value is outside its range.
    """

    def __init__(self, base_lr: float, warmup_steps: int, total_steps: int):
        if total_steps < 1:
            raise UserError(
                f"total_steps is {total_steps}; give the number of training steps, at least 1."
            )
        if not 0 <= warmup_steps <= total_steps:
            raise UserError(
                f"warmup_steps is {warmup_steps}; give a value between 0 and "
                f"total_steps = {total_steps}."
            )
        if not base_lr >= 0:
            raise UserError(f"base_lr is {base_lr}; give a learning rate of 0 or more.")
        self.base_lr = base_lr
        self.total_steps = total_steps
        # Without a step of decay (W = K) Keras would divide by 0 at k = K.
        decay_steps = max(total_steps - warmup_steps, 1)
        super().__init__(0.0, decay_steps, warmup_target=base_lr, warmup_steps=warmup_steps)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {
            "base_lr": self.base_lr,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
        }

"""Fine-tuning: an encoder and a linear head on it, trained together on labelled images.

Shared by semi-supervised evaluation (paper section 4.2, appendix C.1) and transfer by fine-tuning
(appendix D.3): SGD with Nesterov momentum 0.9; random crops and flips in training, centre crops
afterwards; BatchNorm in training mode. The paper names no schedule for either; here the learning
rate follows a cosine to 0, as in linear evaluation.
"""

import dataclasses
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from byol_tf import data, keras_compat
from byol_tf.errors import UserError
from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder
from byol_tf.models.networks import check_flat
from byol_tf.models.optimizers import MomentumOptimizer
from byol_tf.sources import Source

_MOMENTUM = 0.9
_EVALUATION_BATCH = 256


class Diverged(UserError):
    """Error raised when loss, weights or logits are not finite: the learning rate is too high."""


@dataclasses.dataclass(frozen=True)
class Classified:
    """A classifier's logits on a data set, float32 `[N, C]`, and the true labels, int32 `[N]`."""

    logits: np.ndarray
    labels: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """Class with the highest logit of each example, int64 `[N]`; ties go to the lower class."""
        return self.logits.argmax(axis=1)

    def hits(self, top: int) -> np.ndarray:
        """Returns whether each label is among the `top` best classes (or all C), bool `[N]`."""
        ranked = tf.math.top_k(self.logits, min(top, self.logits.shape[1])).indices
        return (ranked.numpy() == self.labels[:, np.newaxis]).any(axis=1)


class FineTuner:
    """A classifier that can be trained repeatedly from the same initial weights.

    One model and one compiled step serve a whole sweep: learning rate, decay and number of steps
    are variables, and `train` first resets weights, BatchNorm statistics and momentum. Training
    uses Keras's `fit`, so under a strategy's scope the replicas share each batch.

    Args:
        encoder: Encoder to start from, with its preprocessing; its own weights do not change.
        num_classes: Number of classes C, at least 2. The head starts at zero.
        batch_norm_momentum: Momentum of the running statistics, in [0, 1); None keeps the
            encoder's.

    Raises:
        UserError: The encoder cannot be trained or gives feature maps, or there is one class.
    """

    def __init__(
        self,
        encoder: EvaluatedEncoder,
        num_classes: int,
        batch_norm_momentum: float | None = None,
    ):
        if num_classes < 2:
            raise UserError("the training set has one class; fine-tuning needs at least two.")
        backbone = encoder.trainable()
        check_flat(backbone.output_shape)
        if batch_norm_momentum is not None:
            for layer in keras_compat.sublayers(backbone):
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.momentum = batch_norm_momentum
        head = keras.layers.Dense(
            num_classes, kernel_initializer="zeros", dtype="float32", name="head"
        )
        self.model = keras.Model(backbone.inputs, head(backbone.outputs[0]))
        self._preprocessing = encoder.preprocessing
        self._start = self.model.get_weights()
        self._optimizer = NesterovSGD()
        self._optimizer.build(self.model.trainable_variables)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        # Without XLA, whose convolutions are slow on a CPU; Keras 3 would choose it.
        self.model.compile(self._optimizer, loss, jit_compile=False)

        images = tf.TensorSpec([None, *self._preprocessing.shape], tf.float32)
        self._logits = tf.function(
            lambda images: self.model(images, training=False), [images], autograph=False
        )

    def train(
        self,
        source: Source,
        *,
        steps: int,
        batch_size: int,
        learning_rate: float,
        weight_decay: float = 0.0,
        seed: int,
    ) -> None:
        """Trains from the initial weights.

        Args:
            source: Labelled images.
            steps: Number of steps, at least 1.
            batch_size: Images per batch. If it exceeds the number of images, each of them comes
                several times in a batch.
            learning_rate: Learning rate of the first step.
            weight_decay: Weight decay as in `NesterovSGD`.
            seed: Seed of order, crops and flips.

        Raises:
            Diverged: The loss or a weight is not finite.
            UserError: A whole batch of images is corrupt.
        """
        self.model.set_weights(self._start)
        self._optimizer.restart(learning_rate, weight_decay, steps)
        batches = data.labelled_dataset(source, self._preprocessing, batch_size, seed)
        with data.clean_errors(source):
            history = self.model.fit(
                batches,
                steps_per_epoch=steps,
                shuffle=False,
                verbose=0,
                callbacks=[_Watch(steps)],
            ).history
        numbers = (history["loss"], *self.model.get_weights())
        if not all(np.isfinite(number).all() for number in numbers):
            raise Diverged(
                f"fine-tuning on '{source.name}' diverged at the learning rate {learning_rate:g}; "
                "give a lower one."
            )

    def classify(self, source: Source) -> Classified:
        """Returns the logits for the centre crops of all images that are not corrupt.

        Raises:
            Diverged: Logits are not finite.
            UserError: There are no images.
        """
        batches = [
            (self._logits(images).numpy(), labels.numpy())
            for images, labels, _ in data.evaluation_dataset(
                source, self._preprocessing, _EVALUATION_BATCH
            )
        ]
        if not batches:
            raise UserError(
                f"'{source.name}' has no image that decodes; replace the files that the log names."
            )
        classified = Classified(*(np.concatenate(column) for column in zip(*batches, strict=True)))
        if not np.isfinite(classified.logits).all():
            raise Diverged(
                "the fine-tuned encoder's logits are not finite; lower the learning rate."
            )
        return classified


class NesterovSGD(MomentumOptimizer):
    """Restartable SGD with Nesterov momentum 0.9, coupled L2 and a cosine learning rate.

    At step t = 0 ... T - 1, for a weight w with gradient g, learning rate γ and weight decay λ:

        u ← g + λ w                 (biases and BatchNorm, of rank 0 or 1, have no decay)
        m ← 0.9 m + u
        w ← w - γ (1 + cos(π t / T)) / 2 · (u + 0.9 m)

    The rate is outside the momentum buffer, as in `evaluation.classifiers` and optax; in Keras's
    own SGD it is inside.
    """

    coupled_weight_decay: tf.Variable

    def __init__(self):
        super().__init__(
            learning_rate=0.0, weight_decay=0.0, momentum=_MOMENTUM, name="nesterov_sgd"
        )
        self.coupled_weight_decay = tf.Variable(0.0, trainable=False)
        self.total_steps = tf.Variable(1.0, trainable=False)

    def restart(self, learning_rate: float, weight_decay: float, total_steps: int) -> None:
        """Sets γ, λ and T, and t and the momentum buffers to 0."""
        self.learning_rate = learning_rate
        self.coupled_weight_decay.assign(weight_decay)
        self.total_steps.assign(total_steps)
        for variable in (self.iterations, *self.slots[0]):
            variable.assign(tf.zeros_like(variable))

    def update(
        self, gradient: tf.Tensor, variable: tf.Variable, rate: tf.Tensor, *slots: tf.Variable
    ) -> None:
        (momentum,) = slots
        update = self.decayed(gradient, variable)
        progress = tf.cast(self.iterations, tf.float32) / self.total_steps
        rate = rate * 0.5 * (1.0 + tf.cos(math.pi * progress))
        momentum.assign(self.momentum * momentum + update)
        variable.assign_sub(rate * (update + self.momentum * momentum))


class _Watch(keras.callbacks.Callback):
    """Logs progress and stops training once the loss is not finite."""

    def __init__(self, steps: int):
        super().__init__()
        self._steps = steps

    def on_train_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
        loss = logs["loss"]
        logging.log_every_n_seconds(
            logging.INFO,
            "fine-tuning: step %d of %d, mean loss %.3f",
            10,
            batch + 1,
            self._steps,
            loss,
        )
        if not math.isfinite(loss):
            self.model.stop_training = True

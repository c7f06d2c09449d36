"""What methods that learn from two views of an image share; the method itself is a subclass.

A subclass says which networks there are and what the loss of two views is: see byol.py, simclr.py.
"""

import abc
from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.models.collapse import spread
from byol_tf.models.networks import check_flat


class Outputs(NamedTuple):
    """What a method makes of two views.

    Attributes:
        loss: float32 scalar, mean over the batch.
        representation: of view 1, `[B, D]`; the online classifier's input.
        projection: of view 1, `[B, P]`; its spread is what tells a collapse.
    """

    loss: tf.Tensor
    representation: tf.Tensor
    projection: tf.Tensor


class TwoViewModel(keras.Model):
    """An encoder and a head, trained by `fit()` on batches of two views.

    A batch is `((view_1, view_2), labels)` or `((view_1, view_2),)`: views float `[B, H, W, 3]`, labels int
    `[B]`. Calling the model encodes: float `[B, H, W, 3]` → representation `[B, D]`.

    A method implements `forward` and lists its networks in `trained` (and `targets`); its constructor's
    arguments that a config gives are `CONFIG_FIELDS`; `display_name` and `loss_caption` are how reports
    name it and explain its loss. `pretrain` then trains it by name.

    Args:
        encoder: a built Keras model `[B, H, W, 3]` → `[B, D]` with `get_config`.
        total_steps: all the steps that will be trained.
        num_classes: where given, an online linear classifier on the stop-gradient representation of view 1
            reports `online_accuracy`. It needs labels and never trains the encoder.
        augmentation: layer `((crops_1, crops_2), seed=int32 [2])` → views, such as
            `augmentations.TwoViews`; where given, it runs inside `train_step`, on the device.
        micro_batches: N; each batch is cut into N parts that never meet, not in BatchNorm and not in the
            loss, and the optimizer gets the mean of their gradients: batch size B / N at the optimization of
            B, as the paper's ablation of the batch size has it (section 5).
        seed: root of the device-side augmentation's randomness.

    Raises:
        UserError: an argument outside its range, an encoder without a `[B, D]` output.
    """

    CONFIG_FIELDS: Sequence[str] = ()
    display_name: str = ""
    loss_caption: str = ""

    def __init__(
        self,
        encoder: keras.Model,
        *,
        total_steps: int,
        num_classes: int | None = None,
        augmentation: keras.layers.Layer | None = None,
        micro_batches: int = 1,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not (isinstance(total_steps, int) and total_steps >= 1):
            raise UserError(
                f"total_steps is {total_steps}; give the number of training steps, at least 1."
            )
        if not (isinstance(micro_batches, int) and micro_batches >= 1):
            raise UserError(f"micro_batches is {micro_batches}; give a whole number, at least 1.")
        if not isinstance(encoder, keras.Model) or not encoder.built:
            raise UserError(
                "the encoder is not a built Keras model; give a keras.Model with a known input "
                "shape."
            )
        self.representation_size = check_flat(encoder.output_shape)
        self.encoder = encoder
        self.total_steps = total_steps
        self.num_classes = num_classes
        self.augmentation = augmentation
        self.micro_batches = micro_batches
        self.seed = seed

        self.classifier = None
        if num_classes is not None:
            # A seed of its own: the other networks start alike with and without it.
            initializer = keras.initializers.GlorotUniform(seed)
            self.classifier = keras.layers.Dense(
                num_classes, kernel_initializer=initializer, dtype="float32", name="classifier"
            )
            self.classifier.build((None, self.representation_size))

        # Counts batches, not optimizer updates: a loss scaler may skip an update, and the position in the
        # data and in the τ schedule must not depend on that.
        self.step = tf.Variable(
            0,
            trainable=False,
            dtype=tf.int64,
            name="step",
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        self.loss_metric = keras.metrics.Mean("loss")
        self.std_metric = keras.metrics.Mean("projection_std")
        self.accuracy_metric = keras.metrics.SparseCategoricalAccuracy("online_accuracy")
        # lr and τ are equal on all replicas; Keras's default would sum them.
        self.distribute_reduction_method = "first"
        self.built = True

    @abc.abstractmethod
    def forward(self, view_1: tf.Tensor, view_2: tf.Tensor, training: bool) -> Outputs:
        """The method's loss of two views, float `[B, H, W, 3]` each."""

    @property
    @abc.abstractmethod
    def trained(self) -> list[keras.layers.Layer]:
        """The networks that the loss trains, the encoder first."""

    @property
    def targets(self) -> list[keras.layers.Layer]:
        """Networks without gradient that are part of the model's state."""
        return []

    def after_update(self) -> dict[str, tf.Tensor]:
        """What the method does once the optimizer has moved the weights; returns what it wants logged."""
        return {}

    def call(self, images, training=False):
        """Representation `[B, D]` of `images` `[B, H, W, 3]`."""
        return self.encoder(images, training=training)

    def compile(self, optimizer, jit_compile: bool | None = None, **kwargs):
        """As `keras.Model.compile`, without a loss: the method brings its own.

        Args:
            optimizer: e.g. `optimizers.LARS`.
            jit_compile: compile `train_step` with XLA. None compiles on GPU and TPU only: on a CPU, XLA's
                convolutions are several times slower than TensorFlow's oneDNN kernels.

        Raises:
            UserError: where `loss` is given.
        """
        if kwargs.get("loss") is not None:
            raise UserError(
                f"{type(self).__name__}.compile() was given a loss; leave it out, the method defines its own."
            )
        if jit_compile is None:
            jit_compile = bool(
                tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU")
            )
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)

    def get_compile_config(self):
        """What `load_model` needs to compile a saved model again."""
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "jit_compile": self.jit_compile,
        }

    def compile_from_config(self, config):
        """Compiles as `get_compile_config` says, with the optimizer's slots ready to be loaded."""
        self.compile(
            keras.saving.deserialize_keras_object(config["optimizer"]), config["jit_compile"]
        )
        self.optimizer.build(self.trainable_variables)

    def train_step(self, data):
        """One update; returns the running metrics, the learning rate and what the method logs."""
        views, labels = self._unpack(data)
        parts = [self._gradients(*part) for part in self._micro_batches(views, labels)]
        gradients = [_sum(gradients) for gradients in zip(*parts, strict=True)]
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        logged = self.after_update()
        self.step.assign_add(1)
        return self._results() | {"lr": self._learning_rate()} | logged

    def test_step(self, data):
        """The loss in inference mode, on views of held-out images."""
        (view_1, view_2), labels = self._unpack(data)
        outputs = self.forward(view_1, view_2, training=False)
        self._classifier_loss(outputs.representation, labels)
        self._update_metrics(outputs)
        return self._results()

    def _gradients(self, view_1, view_2, labels):
        """Of the mean over the global batch, as a sum over the replicas and the micro-batches."""
        with tf.GradientTape() as tape:
            outputs = self.forward(view_1, view_2, training=True)
            objective = outputs.loss + self._classifier_loss(outputs.representation, labels)
            # The optimizer sums gradients over the replicas.
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            objective /= replicas * self.micro_batches
        self._update_metrics(outputs)
        # Scales the loss and unscales the gradients under float16. Legacy optimizers, such as tfa's LAMB,
        # have it under another name.
        compute = (
            getattr(self.optimizer, "compute_gradients", None) or self.optimizer._compute_gradients
        )
        pairs = compute(objective, self.trainable_variables, tape=tape)
        return [gradient for gradient, _ in pairs]

    def _micro_batches(self, views, labels):
        """`(view_1, view_2, labels)` of each of the N parts of a batch."""
        if self.micro_batches == 1:
            return [(*views, labels)]
        count = self.micro_batches
        labels = [None] * count if labels is None else tf.split(labels, count)
        return list(zip(*(tf.split(view, count) for view in views), labels, strict=True))

    def _classifier_loss(self, representation, labels):
        if self.classifier is None:
            return 0.0
        logits = self.classifier(tf.stop_gradient(representation))
        self.accuracy_metric.update_state(labels, logits)
        return tf.reduce_mean(
            keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        )

    def _update_metrics(self, outputs):
        self.loss_metric.update_state(outputs.loss)
        self.std_metric.update_state(spread(outputs.projection))

    def _results(self):
        return {metric.name: metric.result() for metric in self.metrics}

    def _learning_rate(self):
        rate = self.optimizer.learning_rate
        if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
            rate = rate(self.optimizer.iterations - 1)  # A legacy optimizer, such as tfa's LAMB.
        return tf.identity(rate)

    def _unpack(self, data):
        """Views and labels of a batch, checked while the step is traced.

        ValueErrors, as tf.function gives every other type a name of its own."""
        x, labels, _ = keras.utils.unpack_x_y_sample_weight(data)
        if not (
            isinstance(x, (tuple, list)) and len(x) == 2 and all(len(view.shape) == 4 for view in x)
        ):
            raise ValueError(
                f"{type(self).__name__}'s batch is not two views; make each batch ((view_1, view_2), labels) or "
                "((view_1, view_2),) with views [B, H, W, 3]."
            )
        size = x[0].shape[0]
        if size is not None and size % self.micro_batches:
            raise ValueError(
                f"a replica's batch of {size} cannot be cut into {self.micro_batches} equal micro_batches; give a "
                "multiple."
            )
        if size == self.micro_batches:
            raise ValueError(
                "the batch holds one image per replica, for which BatchNorm has no variance; give two or more."
            )
        if self.classifier is not None and labels is None:
            raise ValueError(
                "num_classes is set but the batches have no labels; leave num_classes out."
            )
        if self.augmentation is not None:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            seed = tf.random.experimental.stateless_fold_in(
                tf.stack([tf.cast(self.seed, tf.int32), tf.cast(self.step, tf.int32)]), replica
            )
            x = self.augmentation(tuple(x), seed=seed)
        return x, labels

    @property
    def metrics(self):
        metrics = [self.loss_metric, self.std_metric]
        return metrics + [self.accuracy_metric] if self.classifier is not None else metrics

    @property
    def trainable_weights(self):
        """Those of the trained networks and of the online classifier. Not the targets': a
        `trainable = False` would also turn a target's BatchNorm to inference mode, which is not the method."""
        return [weight for part in self._trained_parts() for weight in part.trainable_weights]

    @property
    def non_trainable_weights(self):
        trainable = {id(weight) for weight in self.trainable_weights}
        return [weight for weight in self.weights if id(weight) not in trainable]

    @property
    def weights(self):
        parts = [*self._trained_parts(), *self.targets]
        return [weight for part in parts for weight in part.weights] + [self.step]

    def _trained_parts(self):
        return [*self.trained, *([] if self.classifier is None else [self.classifier])]

    def get_config(self):
        return {
            "name": self.name,
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "total_steps": self.total_steps,
            "num_classes": self.num_classes,
            "augmentation": self.augmentation
            and keras.saving.serialize_keras_object(self.augmentation),
            "micro_batches": self.micro_batches,
            "seed": self.seed,
        } | {field: getattr(self, field) for field in self.CONFIG_FIELDS}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for key in ("encoder", "augmentation"):
            if config[key] is not None:
                config[key] = keras.saving.deserialize_keras_object(config[key], custom_objects)
        return cls(**config)


def _sum(gradients):
    """Of one weight's gradients in the micro-batches; None where the loss does not depend on it."""
    gradients = [gradient for gradient in gradients if gradient is not None]
    return tf.add_n(gradients) if gradients else None

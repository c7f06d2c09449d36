"""The base class of methods that learn from two views of an image.

A subclass defines the networks and the loss of two views; see byol.py and simclr.py.
"""

import abc
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from absl import logging

from byol_tf import keras_compat
from byol_tf.errors import UserError
from byol_tf.models import moving_statistics
from byol_tf.models.collapse import spread
from byol_tf.models.networks import check_flat
from byol_tf.models.view_check import ViewCheck


class Outputs(NamedTuple):
    """The outputs of a method for two views.

    Attributes:
        loss: Mean over the batch, float32 scalar.
        representation: Representation of view 1, `[B, D]`, the online classifier's input.
        projection: Projection of view 1, `[B, P]`, whose spread reveals a collapse.
    """

    loss: tf.Tensor
    representation: tf.Tensor
    projection: tf.Tensor


class TwoViewModel(keras_compat.Model):
    """An encoder and a head, trained by `fit()` on batches of two views.

    A batch is `((view_1, view_2), labels)` or `((view_1, view_2),)`: views float `[B, H, W, 3]`,
    labels int `[B]`. Calling the model encodes: float `[B, H, W, 3]` -> representation `[B, D]`.

    A method implements `forward` and lists its networks in `trained` (and `targets`).
    `CONFIG_FIELDS` names the constructor's arguments that come from a config; `display_name` and
    `loss_caption` are what reports print for it. `pretrain` then trains it by name. `PASSES` is how
    often `forward` takes a batch through each network, by which `moving_statistics` corrects
    BatchNorm: 2 if the views go one after the other, 1 if they go together. With `MULTI_CROP`, a
    batch may have small crops after the two views, `((view_1, view_2, *small_crops), labels)`,
    which `forward` gets as `small_crops`.

    Args:
        encoder: Built Keras model `[B, H, W, 3]` -> `[B, D]` with `get_config`.
        total_steps: Number of steps that will be trained.
        num_classes: If given, an online linear classifier on the stop-gradient representation of
            view 1 reports `online_accuracy`. It needs labels and never trains the encoder.
        augmentation: Layer `((crops_1, crops_2, ...), seed=int32 [2])` -> views, such as
            `augmentations.TwoViews`; if given, it runs inside `train_step`, on the device.
        micro_batches: N, gradient accumulation; each batch is cut into N independent micro-batches,
            with their own BatchNorm statistics and loss, one after the other, and the optimizer
            gets the mean of their gradients: the memory of B / N with the optimization of B, as in
            the paper's ablation of the batch size (section 5).
        seed: Seed of the device-side augmentation.

    Raises:
        UserError: An argument is outside its range, or the encoder has no `[B, D]` output.
    """

    CONFIG_FIELDS: Sequence[str] = ()
    PASSES: int = 2
    MULTI_CROP: bool = False
    display_name: str = ""
    loss_caption: str = ""
    train_function: Any  # Keras sets it.

    def __init__(
        self,
        encoder: keras.Model,
        *,
        total_steps: int,
        num_classes: int | None = None,
        augmentation: keras.layers.Layer | None = None,
        micro_batches: int = 1,
        seed: int = 0,
        **kwargs: Any,
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

        self._view_check = ViewCheck()
        self.classifier = None
        if num_classes is not None:
            # A separate seed: the other networks get the same weights with and without it.
            initializer = keras.initializers.GlorotUniform(seed)
            self.classifier = keras.layers.Dense(
                num_classes, kernel_initializer=initializer, dtype="float32", name="classifier"
            )
            self.classifier.build((None, self.representation_size))

        # Counts batches, not optimizer updates: a loss scaler may skip an update, and the position
        # in the data and in the τ schedule must not depend on that.
        self.step = keras_compat.add_counter(self, "step")
        self.loss_metric = keras.metrics.Mean("loss")
        self.std_metric = keras.metrics.Mean("projection_std")
        self.accuracy_metric = keras.metrics.SparseCategoricalAccuracy("online_accuracy")
        # lr and τ are equal on all replicas; Keras's default would sum them.
        self.distribute_reduction_method = "first"
        self.built = True

    @abc.abstractmethod
    def forward(self, view_1: tf.Tensor, view_2: tf.Tensor, training: bool) -> Outputs:
        """Computes the method's loss for two views, float `[B, H, W, 3]` each."""

    @property
    @abc.abstractmethod
    def trained(self) -> list[keras.layers.Layer]:
        """Networks that the loss trains, the encoder first."""

    @property
    def targets(self) -> list[keras.layers.Layer]:
        """Networks without gradient that are part of the model's state."""
        return []

    def after_update(self) -> dict[str, tf.Tensor]:
        """Runs after each optimizer update; returns additional values to log."""
        return {}

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the representation `[B, D]` of `images` `[B, H, W, 3]`."""
        return self.encoder(images, training=training)

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str,
        jit_compile: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Compiles like `keras.Model.compile`, but without a loss: the method defines its own.

        Args:
            optimizer: Optimizer, such as `optimizers.LARS`.
            jit_compile: Whether to compile `train_step` with XLA. None compiles on GPU and TPU
                only: on a CPU, XLA's convolutions are several times slower than TensorFlow's oneDNN
                kernels.
            **kwargs: Other arguments of `keras.Model.compile`.

        Raises:
            UserError: A loss is given.
        """
        if kwargs.get("loss") is not None:
            raise UserError(
                f"{type(self).__name__}.compile() was given a loss; leave it out, the method "
                "defines its own."
            )
        if jit_compile is None:
            jit_compile = bool(
                tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU")
            )
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)

    def get_compile_config(self) -> dict:
        """Returns what `load_model` needs to compile a saved model again."""
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "jit_compile": self.jit_compile,
        }

    def compile_from_config(self, config: dict) -> None:
        """Compiles with the result of `get_compile_config`, and creates the optimizer's slots."""
        self.compile(
            keras.saving.deserialize_keras_object(config["optimizer"]), config["jit_compile"]
        )
        keras_compat.build_optimizer(self)

    def save(self, filepath: str | os.PathLike, overwrite: bool = True, **kwargs: Any) -> None:
        """Saves like `keras.Model.save`, as a .keras file.

        Raises:
            UserError: The file is not .keras. Keras 2 loads a SavedModel as another class, with
                weights in another order and without the method; Keras 3 writes none.
        """
        if kwargs.get("save_format", "keras") != "keras" or not str(filepath).endswith(".keras"):
            raise UserError(
                f"'{filepath}' is not a .keras file, the only format that keeps the method and the "
                "optimizer's state to train on; give a name that ends in .keras, or export "
                "model.encoder for serving by byol_tf.export.save_encoder."
            )
        super().save(filepath, overwrite=overwrite, **kwargs)

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains like `keras.Model.fit`; warns if that went past `total_steps`."""
        if isinstance(x, (tf.data.Dataset, tf.distribute.DistributedDataset)):
            kwargs.setdefault("shuffle", False)  # A data set has its own order.
        history = super().fit(x, *args, **kwargs)
        if self.step.numpy() > self.total_steps:
            logging.warning(
                "fit trained to step %d, but the schedules end at total_steps = %d; give the "
                "number of steps that will be trained.",
                self.step.numpy(),
                self.total_steps,
            )
        return history

    def make_train_function(self, force: bool = False) -> Callable:
        """Returns Keras's function of a step, which after its first call has the views checked."""
        super().make_train_function(force)
        step = self.train_function
        if self._view_check.reported:
            return step

        def first_step(iterator):
            results = step(iterator)
            self._view_check.report()
            self.train_function = step
            return results

        self.train_function = first_step
        return first_step

    def train_step(self, data: tuple) -> dict[str, tf.Tensor]:
        """Trains one step; returns running metrics, learning rate and what the method logs."""
        views, labels = self._unpack(data)
        layers = [
            layer
            for network in [*self.trained, *self.targets]
            for layer in moving_statistics.batch_norms(network)
        ]
        before = moving_statistics.read(layers)
        gradients = self._accumulated_gradients(views, labels)
        rate = keras_compat.apply_gradients(self.optimizer, gradients, self.trainable_variables)
        logged = self.after_update()
        self.step.assign_add(1)
        moving_statistics.debias(layers, before, self.step * self.PASSES * self.micro_batches)
        return keras_compat.step_logs(self._results() | {"lr": rate} | logged)

    def test_step(self, data: tuple) -> dict[str, tf.Tensor]:
        """Computes the loss in inference mode, on views of held-out images."""
        views, labels = self._unpack(data)
        outputs = self._outputs(views, training=False)
        self._classifier_loss(outputs.representation, labels)
        self._update_metrics(outputs)
        return keras_compat.step_logs(self._results())

    def _accumulated_gradients(
        self, views: tuple[tf.Tensor, ...], labels: tf.Tensor | None
    ) -> list[tf.Tensor | None]:
        """Returns the sum of the micro-batches' parts of the gradients.

        Each starts after the one before: otherwise TensorFlow would run them at the same time, with
        the activations of all in memory.
        """
        first, *others = self._micro_batches(views, labels)
        total = self._gradients(*first)
        for part in others:
            with tf.control_dependencies([gradient for gradient in total if gradient is not None]):
                later = [None if tensor is None else tf.identity(tensor) for tensor in part]
            pairs = zip(total, self._gradients(*later), strict=True)
            total = [_sum(pair) for pair in pairs]
        return total

    def _gradients(self, *views_and_labels: tf.Tensor | None) -> list[tf.Tensor | None]:
        """Returns this micro-batch's part of the gradients.

        Summed over replicas and micro-batches, the parts are the gradients of the global mean.
        """
        *views, labels = views_and_labels
        with tf.GradientTape() as tape:
            outputs = self._outputs(views, training=True)
            objective = outputs.loss + self._classifier_loss(outputs.representation, labels)
            # The optimizer sums gradients over the replicas.
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            objective /= replicas * self.micro_batches
        self._update_metrics(outputs)
        return keras_compat.compute_gradients(
            self.optimizer, objective, self.trainable_variables, tape
        )

    def _outputs(self, views: Sequence[tf.Tensor], training: bool) -> Outputs:
        view_1, view_2, *small_crops = views
        if small_crops:
            more = {"small_crops": small_crops}
            return self.forward(view_1, view_2, training=training, **more)
        return self.forward(view_1, view_2, training=training)

    def _micro_batches(self, views: tuple[tf.Tensor, ...], labels: tf.Tensor | None) -> list[tuple]:
        """Returns `(*views, labels)` of each of the N micro-batches."""
        if self.micro_batches == 1:
            return [(*views, labels)]
        count = self.micro_batches
        labels = [None] * count if labels is None else tf.split(labels, count)
        return list(zip(*(tf.split(view, count) for view in views), labels, strict=True))

    def _classifier_loss(
        self, representation: tf.Tensor, labels: tf.Tensor | None
    ) -> float | tf.Tensor:
        if self.classifier is None:
            return 0.0
        logits = self.classifier(tf.stop_gradient(representation))
        self.accuracy_metric.update_state(labels, logits)
        return tf.reduce_mean(
            keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        )

    def _update_metrics(self, outputs: Outputs) -> None:
        self.loss_metric.update_state(outputs.loss)
        self.std_metric.update_state(spread(outputs.projection))

    def _results(self) -> dict[str, tf.Tensor]:
        return {metric.name: metric.result() for metric in self.metrics}

    def _unpack(self, data: tuple) -> tuple[tuple[tf.Tensor, ...], tf.Tensor | None]:
        """Returns views and labels of a batch, checked while the step is traced.

        Raises:
            ValueError: The batch is not what the model needs. Not UserError: tf.function renames
                every type that TensorFlow does not know.
        """
        x, labels, _ = keras.utils.unpack_x_y_sample_weight(data)
        if not (
            isinstance(x, (tuple, list))
            and (len(x) == 2 or len(x) > 2 and self.MULTI_CROP)
            and all(len(view.shape) == 4 for view in x)
        ):
            raise ValueError(
                f"{type(self).__name__}'s batch is not two views; make each batch "
                "((view_1, view_2), labels) or ((view_1, view_2),) with views [B, H, W, 3]."
            )
        if len({tuple(view.shape[1:]) for view in x[2:]}) > 1:
            raise ValueError(
                "the small crops after the two views have several sizes; give all of them the same."
            )
        size = x[0].shape[0]
        if size is not None and size % self.micro_batches:
            raise ValueError(
                f"a replica's batch of {size} cannot be cut into {self.micro_batches} equal "
                "micro_batches; give a multiple."
            )
        if size == self.micro_batches:
            raise ValueError(
                "the batch holds one image per replica, for which BatchNorm has no variance; give "
                "two or more."
            )
        if self.classifier is not None and labels is None:
            raise ValueError(
                "num_classes is set but the batches have no labels; leave num_classes out."
            )
        if self.augmentation is None:
            self._view_check.look_at(x)
        else:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            seed = tf.random.experimental.stateless_fold_in(
                tf.stack([tf.cast(self.seed, tf.int32), tf.cast(self.step, tf.int32)]), replica
            )
            x = self.augmentation(tuple(x), seed=seed)
        return x, labels

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Running metrics; Keras resets them at the start of each epoch."""
        metrics = [self.loss_metric, self.std_metric]
        return metrics + [self.accuracy_metric] if self.classifier is not None else metrics

    @property
    def trainable_weights(self) -> list[tf.Variable]:
        """Weights of the trained networks and of the online classifier.

        The targets are left out here, not by `trainable = False`: that would also put a target's
        BatchNorm into inference mode, which is not the method.
        """
        return [weight for part in self._trained_parts() for weight in part.trainable_weights]

    @property
    def trainable_variables(self) -> list[tf.Variable]:
        """The trainable weights, whose slots an optimizer keeps."""
        return self.trainable_weights

    @property
    def non_trainable_weights(self) -> list[tf.Variable]:
        """All other weights: the targets', the moving statistics and the step."""
        trainable = {id(weight) for weight in self.trainable_weights}
        return [weight for weight in self.weights if id(weight) not in trainable]

    @property
    def weights(self) -> list[tf.Variable]:
        """All weights of the networks, targets and classifier, and the step."""
        parts = [*self._trained_parts(), *self.targets]
        return [weight for part in parts for weight in part.weights] + [self.step]

    def _trained_parts(self) -> list[keras.layers.Layer]:
        return [*self.trained, *([] if self.classifier is None else [self.classifier])]

    def get_config(self) -> dict:
        """Returns the constructor's arguments as plain data."""
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
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> "TwoViewModel":
        """Builds the model from the result of `get_config`."""
        # Keras 3 finds only classes that have been imported.
        from byol_tf.images import augmentations  # noqa: F401
        from byol_tf.models import optimizers, schedules  # noqa: F401

        config = dict(config)
        for key in ("encoder", "augmentation"):
            if config[key] is not None:
                config[key] = keras.saving.deserialize_keras_object(config[key], custom_objects)
        return cls(**config)


def _sum(gradients: Sequence[tf.Tensor | None]) -> tf.Tensor | None:
    """Returns the sum of one weight's gradients; None if the loss does not depend on it."""
    present = [gradient for gradient in gradients if gradient is not None]
    return tf.add_n(present) if present else None

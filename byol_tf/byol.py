"""Bootstrap Your Own Latent (arXiv 2006.07733) as a Keras model: the room people visit first.

Reads along with Algorithm 1. θ are the online network's weights (encoder f, projector g, predictor q), ξ the
target network's (encoder, projector); the target gets no gradient and follows θ as an exponential moving average.
"""

import keras
import tensorflow as tf

from byol_tf import networks
from byol_tf.errors import UserError
from byol_tf.losses import symmetric_loss
from byol_tf.schedules import cosine_ema
from byol_tf.spread import spread


@keras.saving.register_keras_serializable("byol_tf")
class BYOL(keras.Model):
    """Online and target networks, trained by `fit()` on batches of two views.

    A batch is `((view_1, view_2), labels)` or `((view_1, view_2),)`: views float `[B, H, W, 3]`, labels int
    `[B]`. Calling the model encodes: float `[B, H, W, 3]` → representation `[B, D]`.

    The target starts as a copy of the online encoder and projector (the paper draws it anew and the authors
    saw no difference; a copy also suits an encoder that comes with weights). Each view passes through both
    networks separately, in training mode, so it has its own batch statistics; the target keeps moving
    statistics of its own, and the moving average covers weights only, as in the authors' code.

    Args:
        encoder: a built Keras model `[B, H, W, 3]` → `[B, D]` with `get_config`.
        total_steps: K of the τ schedule, normally all the steps that will be trained.
        base_ema: τ₀ in [0, 1].
        projection_size: width of projections and predictions.
        hidden_size: hidden width of projector and predictor.
        num_classes: where given, an online linear classifier on the stop-gradient representation of view 1
            reports `online_accuracy`. It needs labels and never trains the encoder.
        augmentation: layer `((crops_1, crops_2), seed=int32 [2])` → views, such as
            `augmentations.TwoViews`; where given, it runs inside `train_step`, on the device.
        seed: root of the device-side augmentation's randomness.

    Raises:
        UserError: an argument outside its range, an encoder without a `[B, D]` output.
    """

    def __init__(
        self,
        encoder: keras.Model,
        *,
        total_steps: int,
        base_ema: float = 0.996,
        projection_size: int = 256,
        hidden_size: int = 4096,
        num_classes: int | None = None,
        augmentation: keras.layers.Layer | None = None,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not (isinstance(total_steps, int) and total_steps >= 1):
            raise UserError(f"total_steps is {total_steps}; give the number of training steps, at least 1.")
        if not 0 <= base_ema <= 1:
            raise UserError(f"base_ema is {base_ema}; the target's decay rate τ₀ lies in [0, 1].")
        representation_size = _check_encoder(encoder)

        self.total_steps = total_steps
        self.base_ema = base_ema
        self.projection_size = projection_size
        self.hidden_size = hidden_size
        self.num_classes = num_classes
        self.augmentation = augmentation
        self.seed = seed

        self.encoder = encoder
        self.projector = networks.mlp(hidden_size, projection_size, name="projector")
        self.projector.build((None, representation_size))
        self.predictor = networks.mlp(hidden_size, projection_size, name="predictor")
        self.predictor.build((None, projection_size))
        self.target_encoder = _copy(encoder)
        self.target_projector = _copy(self.projector)
        self.classifier = None
        if num_classes is not None:
            self.classifier = keras.layers.Dense(num_classes, dtype="float32", name="classifier")
            self.classifier.build((None, representation_size))

        # Counts batches, not optimizer updates: a loss scaler may skip an update, and the position in the
        # data and in the τ schedule must not depend on that.
        self.step = tf.Variable(
            0, trainable=False, dtype=tf.int64, name="step",
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        self.loss_metric = keras.metrics.Mean("loss")
        self.std_metric = keras.metrics.Mean("projection_std")
        self.accuracy_metric = keras.metrics.SparseCategoricalAccuracy("online_accuracy")
        # lr and τ are equal on all replicas; Keras's default would sum them.
        self.distribute_reduction_method = "first"
        self.built = True

    def call(self, images, training=False):
        """Representation `[B, D]` of `images` `[B, H, W, 3]`."""
        return self.encoder(images, training=training)

    def compile(self, optimizer, jit_compile: bool | None = None, **kwargs):
        """As `keras.Model.compile`, without a loss: BYOL brings its own.

        Args:
            optimizer: e.g. `optimizers.LARS`.
            jit_compile: compile `train_step` with XLA. None compiles on GPU and TPU only: on a CPU, XLA's
                convolutions are several times slower than TensorFlow's oneDNN kernels.

        Raises:
            UserError: where `loss` is given.
        """
        if kwargs.get("loss") is not None:
            raise UserError("BYOL.compile() was given a loss; leave it out, the method defines its own.")
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
        self.compile(keras.saving.deserialize_keras_object(config["optimizer"]), config["jit_compile"])
        self.optimizer.build(self.trainable_variables)

    def train_step(self, data):
        """One step of Algorithm 1; returns the running metrics, the learning rate and τ."""
        (view_1, view_2), labels = self._unpack(data)
        tau = cosine_ema(self.step, self.base_ema, self.total_steps)

        # Outside the tape: no gradient can reach ξ.
        target_1 = self._target(view_1, training=True)  # z′_ξ  [B, projection_size]
        target_2 = self._target(view_2, training=True)
        with tf.GradientTape() as tape:
            representation_1, projection_1, prediction_1 = self._online(view_1, training=True)
            _, _, prediction_2 = self._online(view_2, training=True)
            loss = symmetric_loss(prediction_1, target_2, prediction_2, target_1)
            objective = loss + self._classifier_loss(representation_1, labels)
            # The optimizer sums gradients over the replicas; the objective is the mean over the global batch.
            objective /= tf.distribute.get_strategy().num_replicas_in_sync
        self.optimizer.minimize(objective, self.trainable_variables, tape=tape)
        self._update_target(tau)
        self.step.assign_add(1)

        metrics = self._update_metrics(loss, projection_1)
        return metrics | {"lr": self._learning_rate(), "ema": tau}

    def test_step(self, data):
        """The loss in inference mode, on views of held-out images."""
        (view_1, view_2), labels = self._unpack(data)
        target_1 = self._target(view_1, training=False)
        target_2 = self._target(view_2, training=False)
        representation_1, projection_1, prediction_1 = self._online(view_1, training=False)
        _, _, prediction_2 = self._online(view_2, training=False)
        loss = symmetric_loss(prediction_1, target_2, prediction_2, target_1)
        self._classifier_loss(representation_1, labels)
        return self._update_metrics(loss, projection_1)

    def _online(self, view, training):
        representation = self.encoder(view, training=training)  # y_θ  [B, D]
        projection = self.projector(representation, training=training)  # z_θ  [B, projection_size]
        prediction = self.predictor(projection, training=training)  # q_θ(z_θ)
        return representation, projection, prediction

    def _target(self, view, training):
        return self.target_projector(self.target_encoder(view, training=training), training=training)

    def _classifier_loss(self, representation, labels):
        if self.classifier is None:
            return 0.0
        logits = self.classifier(tf.stop_gradient(representation))
        self.accuracy_metric.update_state(labels, logits)
        return tf.reduce_mean(
            keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        )

    def _update_target(self, tau):
        """ξ ← τ ξ + (1 - τ) θ, over weights only, in float32 (the variables' own type)."""
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

        # As Keras's optimizers do it: mirrored variables are updated once for all replicas.
        tf.__internal__.distribute.interim.maybe_merge_call(
            update, tf.distribute.get_strategy(), list(zip(target, online))
        )

    def _update_metrics(self, loss, projection):
        self.loss_metric.update_state(loss)
        self.std_metric.update_state(spread(projection))
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
        if not (isinstance(x, (tuple, list)) and len(x) == 2 and all(len(view.shape) == 4 for view in x)):
            raise ValueError(
                "BYOL's batch is not two views; make each batch ((view_1, view_2), labels) or "
                "((view_1, view_2),) with views [B, H, W, 3]."
            )
        if x[0].shape[0] == 1:
            raise ValueError(
                "the batch holds one image per replica, for which BatchNorm has no variance; give two or more."
            )
        if self.classifier is not None and labels is None:
            raise ValueError("num_classes is set but the batches have no labels; leave num_classes out.")
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
        """θ and the online classifier. Not ξ: a `trainable = False` would also turn the target's BatchNorm
        to inference mode, which is not the method."""
        parts = [self.encoder, self.projector, self.predictor, self.classifier]
        return [weight for part in parts if part is not None for weight in part.trainable_weights]

    @property
    def non_trainable_weights(self):
        trainable = {id(weight) for weight in self.trainable_weights}
        return [weight for weight in self.weights if id(weight) not in trainable]

    @property
    def weights(self):
        parts = [
            self.encoder, self.projector, self.predictor, self.classifier,
            self.target_encoder, self.target_projector,
        ]
        return [weight for part in parts if part is not None for weight in part.weights] + [self.step]

    def get_config(self):
        return {
            "name": self.name,
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "total_steps": self.total_steps,
            "base_ema": self.base_ema,
            "projection_size": self.projection_size,
            "hidden_size": self.hidden_size,
            "num_classes": self.num_classes,
            "augmentation": self.augmentation
            and keras.saving.serialize_keras_object(self.augmentation),
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        for key in ("encoder", "augmentation"):
            if config[key] is not None:
                config[key] = keras.saving.deserialize_keras_object(config[key], custom_objects)
        return cls(**config)


def _check_encoder(encoder) -> int:
    """D of an encoder `[B, H, W, 3]` → `[B, D]`."""
    if not isinstance(encoder, keras.Model) or not encoder.built:
        raise UserError(
            "the encoder is not a built Keras model; give a keras.Model with a known input shape."
        )
    shape = encoder.output_shape
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[-1] is None:
        raise UserError(
            f"the encoder's output has the shape {shape} where BYOL needs [B, D]; end it with global "
            "average pooling (keras.applications: pooling='avg')."
        )
    return shape[-1]


def _copy(model: keras.Model) -> keras.Model:
    """A second model of the same architecture with weights of its own, equal to `model`'s."""
    copy = type(model).from_config(model.get_config())
    if not copy.built:
        copy.build(model.input_shape)
    copy.set_weights(model.get_weights())
    # Keras 2.15 leaves `synchronized` out of BatchNormalization's config.
    for layer, copied in zip(model.submodules, copy.submodules):
        if getattr(layer, "synchronized", False) and not copied.synchronized:
            copied.synchronized, copied.fused = True, False
    return copy

"""The one module that knows which Keras is installed: 2.15, or 3 on the TensorFlow backend.

Nothing else asks for a version. Where the way of Keras 3 is also right in Keras 2, callers use it
directly and need nothing from here.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

_KERAS_3 = int(keras.__version__.partition(".")[0]) >= 3

# Whether `tf.train.Checkpoint` takes models, layers and optimizers as they are.
TRACKABLE = not _KERAS_3
# Keras's own LAMB; None where TensorFlow Addons have it.
Lamb: Any = keras.optimizers.Lamb if _KERAS_3 else None

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"Keras uses the backend '{keras.backend.backend()}', but byol_tf is TensorFlow software; "
        "set KERAS_BACKEND=tensorflow before starting Python."
    )


def native(variable: Any) -> tf.Variable:
    """Returns the tf.Variable of a Keras variable, as strategies and tf.Module take it."""
    return variable if isinstance(variable, tf.Variable) else variable.value


def sublayers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns all layers in `model`, at any depth, itself the first."""
    return list(model._flatten_layers())  # `submodules` is gone in Keras 3, this is in both.


def add_counter(model: keras.Model, name: str) -> tf.Variable:
    """Returns a new int64 weight of `model` that counts steps: 0, the same on all replicas."""
    if _KERAS_3:
        return native(
            model.add_weight(
                shape=(),
                initializer="zeros",
                dtype="int64",
                trainable=False,
                aggregation="only_first_replica",
                name=name,
            )
        )
    # Assigned to an attribute, it is a weight of the model.
    aggregation = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return tf.Variable(0, trainable=False, dtype=tf.int64, name=name, aggregation=aggregation)


class Model(keras.Model):
    """A Keras model whose layers are built when it is made."""

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Builds the optimizer, before `fit` begins under a strategy.

        Keras 3 would also call the model on the workers' mean batch. It cannot reduce a batch of
        several worker processes, and nothing else needs to be built.
        """
        if self._distribute_strategy is not None and not self.optimizer.built:
            build_optimizer(self)


class Optimizer(keras.optimizers.Optimizer):
    """A Keras optimizer of its own formula.

    A subclass lists its slots, the variables it keeps for each weight, and implements `update`.

    Args:
        learning_rate: Float or `LearningRateSchedule`.
        name: Name of the optimizer.
        **kwargs: Arguments of `keras.optimizers.Optimizer` (clipnorm, ...).
    """

    SLOTS: Sequence[str] = ()

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
        name: str,
        **kwargs: Any,
    ):
        if isinstance(learning_rate, int):
            learning_rate = float(learning_rate)
        if _KERAS_3:
            for argument in ("jit_compile", "is_legacy_optimizer"):
                kwargs.pop(argument, None)  # Of Keras 2, in a model that it saved.
            super().__init__(learning_rate, name=name, **kwargs)
        else:
            super().__init__(name=name, **kwargs)
            self._learning_rate = self._build_learning_rate(learning_rate)
        self._index: dict[Any, int] = {}

    def update(
        self, gradient: tf.Tensor, variable: tf.Variable, rate: tf.Tensor, *slots: tf.Variable
    ) -> None:
        """Updates `variable` and its slots, which are in the order of `SLOTS`.

        Args:
            gradient: Gradient, summed over the replicas; an embedding's is `tf.IndexedSlices`.
            variable: Weight.
            rate: Learning rate of this step, in the variable's type.
            *slots: Slots of the weight, of its shape, zero before the first step.
        """
        raise NotImplementedError

    def build(self, variables: Sequence[tf.Variable]) -> None:
        """Creates the slots, once."""
        if self._index:
            return
        super().build(variables)
        self.slots = [
            [self.add_variable_from_reference(variable, slot) for variable in variables]
            for slot in self.SLOTS
        ]
        self._index = {self._var_key(v): number for number, v in enumerate(variables)}
        self._built = True  # Without it Keras 2 would not load the slots of a .keras file.

    def update_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: Any = None
    ) -> None:
        """Calls `update`, as each Keras calls this method; the old one gives no learning rate."""
        rate = self.learning_rate if learning_rate is None else learning_rate
        number = self._index[self._var_key(variable)]
        slots = [native(variables[number]) for variables in self.slots]
        self.update(gradient, native(variable), tf.cast(rate, variable.dtype), *slots)

    def get_config(self) -> dict:
        """Returns the constructor's arguments as plain data."""
        config = super().get_config()
        if not _KERAS_3:
            config["learning_rate"] = self._serialize_hyperparameter(self._learning_rate)
        return config


def build_optimizer(model: keras.Model) -> None:
    """Creates the slots of the model's optimizer, which must exist to be restored."""
    optimizer = model.optimizer
    # A legacy optimizer, such as tfa's LAMB, has only the private method.
    build = getattr(optimizer, "build", None) or optimizer._create_all_weights
    with model.distribute_strategy.scope():
        build(model.trainable_variables)


def compute_gradients(
    optimizer: keras.optimizers.Optimizer,
    loss: tf.Tensor,
    variables: Sequence[tf.Variable],
    tape: tf.GradientTape,
) -> list[tf.Tensor | None]:
    """Returns gradients for `apply_gradients`, computed with a scaled loss under float16."""
    if _KERAS_3:  # `apply_gradients` divides them by the scale.
        with tape:
            loss = optimizer.scale_loss(loss)
        return tape.gradient(loss, variables)
    # Legacy optimizers, such as tfa's LAMB, have only the private method.
    compute = getattr(optimizer, "compute_gradients", None) or optimizer._compute_gradients
    return [gradient for gradient, _ in compute(loss, variables, tape=tape)]


def apply_gradients(
    optimizer: keras.optimizers.Optimizer,
    gradients: Iterable[tf.Tensor | None],
    variables: Iterable[tf.Variable],
) -> tf.Tensor:
    """Applies the results of `compute_gradients` and returns the learning rate of this step."""
    pairs = list(zip(gradients, variables, strict=True))
    if _KERAS_3:
        rate = tf.identity(tf.convert_to_tensor(optimizer.learning_rate))
        optimizer.apply_gradients(pairs)
        return rate
    optimizer.apply_gradients(pairs)
    rate = optimizer.learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        rate = rate(optimizer.iterations - 1)  # A legacy optimizer.
    return tf.identity(rate)


class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's layer with TensorFlow's fused kernel, which Keras 3 no longer uses.

    The kernel takes maps `[B, H, W, C]` of one device. It is faster, and its moving variance has
    Bessel's factor N / (N - 1), as Keras 2's.
    """

    if _KERAS_3:

        def __init__(self, axis: int | Sequence[int] = -1, **kwargs: Any):
            (axis,) = axis if isinstance(axis, (list, tuple)) else (axis,)  # Keras 2 saves a list.
            super().__init__(axis=axis, **kwargs)

        def call(
            self, inputs: tf.Tensor, training: bool | None = None, mask: Any = None
        ) -> tf.Tensor:
            """Normalises `inputs` and, in training, moves the statistics."""
            fused = (
                len(inputs.shape) == 4
                and self.axis in (-1, 3)
                and not (self.synchronized or self.renorm)
                and mask is None
                and inputs.dtype in (tf.float32, tf.float16, tf.bfloat16)
            )
            if not fused:
                return super().call(inputs, training=training, mask=mask)
            trains = bool(training) and self.trainable
            mean, variance = (
                tf.cast(statistic, tf.float32)
                for statistic in (self.moving_mean, self.moving_variance)
            )
            scale = tf.ones_like(mean) if self.gamma is None else tf.cast(self.gamma, tf.float32)
            offset = tf.zeros_like(mean) if self.beta is None else tf.cast(self.beta, tf.float32)
            outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
                inputs,
                scale,
                offset,
                mean,
                variance,
                self.epsilon,
                is_training=trains,
                exponential_avg_factor=1.0 - self.momentum if trains else 1.0,
            )
            if trains:
                self.moving_mean.assign(mean)
                self.moving_variance.assign(variance)
            return outputs


@contextlib.contextmanager
def without_xla(model: keras.Model) -> Iterator[None]:
    """Makes Keras trace grouped convolutions without XLA, which only their gradient needs.

    There is no public switch for it: a method of the layer calls a compiled function, which this
    shadows.
    """
    shadowed = "convolution_op" if _KERAS_3 else "_jit_compiled_convolution_op"
    convolutions = [layer for layer in sublayers(model) if hasattr(layer, "convolution_op")]
    grouped = [convolution for convolution in convolutions if convolution.groups > 1]
    for layer in grouped:
        vars(layer)[shadowed] = _plain_convolution(layer)
    try:
        yield
    finally:
        for layer in grouped:
            del vars(layer)[shadowed]


def _plain_convolution(layer: keras.layers.Layer) -> Any:
    spatial = "DHW"[-len(layer.kernel_size) :]

    # Not inlined: without oneDNN, Grappler would fuse it with the bias or BatchNorm after it, and
    # TensorFlow's fused kernel does not support groups.
    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def convolve(inputs, kernel):
        return tf.nn.convolution(
            inputs,
            kernel,
            strides=list(layer.strides),
            # The layer itself has padded the inputs of a causal convolution.
            padding="VALID" if layer.padding == "causal" else layer.padding.upper(),
            data_format=(
                f"N{spatial}C" if layer.data_format == "channels_last" else f"NC{spatial}"
            ),
            dilations=list(layer.dilation_rate),
        )

    return lambda inputs, kernel: convolve(inputs, tf.convert_to_tensor(kernel))


def step_logs(logs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns what a `train_step` or `test_step` should return for the scalars `logs`.

    Keras 3 averages them over worker processes along an axis 0, which a scalar does not have.
    """
    strategy = tf.distribute.get_strategy()
    workers = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    if _KERAS_3 and workers and strategy.extended._in_multi_worker_mode():
        return {name: tf.reshape(value, [1]) for name, value in logs.items()}
    return logs

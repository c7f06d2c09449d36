"""Small SavedModels with simple answers, for tests of the endpoint."""

import pathlib

import tensorflow as tf


class _HalfPlus(tf.Module):
    """y = x / 2 + b, TF Serving's own test model."""

    def __init__(self, b: float):
        super().__init__()
        self.a = tf.Variable(0.5)
        self.b = tf.Variable(b)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def predict(self, x):
        return {"y": self.a * x + self.b}


def save_half_plus(path: pathlib.Path, b: float = 2.0) -> None:
    """A model with the signature `serving_default`: `x` float32 `[N]` -> `y` = x / 2 + b."""
    module = _HalfPlus(b)
    tf.saved_model.save(module, str(path), signatures=module.predict)


# Type by name of input, output and signature.
ECHOED = {
    "float": tf.float32,
    "double": tf.float64,
    "int8": tf.int8,
    "int16": tf.int16,
    "int32": tf.int32,
    "int64": tf.int64,
    "uint8": tf.uint8,
    "uint32": tf.uint32,
    "uint64": tf.uint64,
    "bool": tf.bool,
    "text": tf.string,
    "half": tf.float16,
}


def save_echo(path: pathlib.Path) -> None:
    """Saves a model whose signatures return their inputs, of any shape.

    Signatures: one for each name in `ECHOED` (`value` -> `value`); `bytes` (string `value` ->
    `value_bytes`); `two` (`a` float32 and `b` string, both `[N, ...]` -> `sum`, the sum of each row
    of a, `[N]`, and `text`, b itself); `scalar` (`value` float32 -> `total`, rank 0); `slow`
    (`seconds` float32 -> `seconds`, after that time); `serving_default` is `float`; `classify_like`
    (string `inputs` -> `scores` `[N, 1]`).
    """
    module = tf.Module()

    def echo(dtype):
        @tf.function(input_signature=[tf.TensorSpec(None, dtype, "value")])
        def function(value):
            return {"value": tf.identity(value)}

        return function

    @tf.function(input_signature=[tf.TensorSpec(None, tf.string, "value")])
    def as_bytes(value):
        return {"value_bytes": tf.identity(value)}

    @tf.function(
        input_signature=[tf.TensorSpec(None, tf.float32, "a"), tf.TensorSpec(None, tf.string, "b")]
    )
    def two(a, b):
        return {
            "sum": tf.reduce_sum(tf.reshape(a, [tf.shape(a)[0], -1]), axis=1),
            "text": tf.identity(b),
        }

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, "value")])
    def scalar(value):
        return {"total": tf.reduce_sum(value)}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, "seconds")])
    def slow(seconds):
        end = tf.timestamp() + tf.cast(tf.reduce_max(seconds), tf.float64)
        steps = tf.while_loop(
            lambda step: tf.timestamp() < end, lambda step: [step + 1], [tf.constant(0)]
        )
        with tf.control_dependencies(steps):
            return {"seconds": tf.identity(seconds)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def classify_like(inputs):
        return {"scores": tf.zeros([tf.shape(inputs)[0], 1])}

    signatures = {name: echo(dtype) for name, dtype in ECHOED.items()}
    signatures |= {
        "serving_default": echo(tf.float32),
        "bytes": as_bytes,
        "two": two,
        "scalar": scalar,
        "slow": slow,
        "classify_like": classify_like,
    }
    tf.saved_model.save(module, str(path), signatures=signatures)

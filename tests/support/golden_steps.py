"""Three BYOL steps from given weights and views, which both Keras must train alike.

As a program (`golden_steps.py OUTPUT.npz`) it writes the golden vectors of `test_golden_steps.py`;
those in tests/golden are from Keras 2.15.
"""

import sys

import keras
import numpy as np
import tensorflow as tf
from tiny_byol import make_model

from byol_tf.models import optimizers, schedules
from byol_tf.models.byol import BYOL

STEPS, BATCH = 3, 8


def optimizer(name: str) -> keras.optimizers.Optimizer:
    if name == "lars":
        return optimizers.LARS(schedules.WarmupCosine(1.0, 1, 10), 1e-4, trust_coefficient=0.02)
    return keras.optimizers.SGD(schedules.WarmupCosine(0.1, 1, 10), momentum=0.9, nesterov=True)


def all_weights(model: BYOL) -> list:
    """Weights by network and layer, since names and the order of `weights` differ."""
    parts = [*model.trained, model.classifier, *model.targets]
    layers = [layer for part in parts for layer in getattr(part, "layers", [part])]
    return [weight for layer in layers for weight in layer.weights]


def as_keras_moves_them(model: BYOL, starts: dict[int, np.ndarray]) -> None:
    """Gives the statistics what `moving_statistics` took out: their first values' share.

    The golden vectors are from before that, so they say what Keras itself makes of the batches.
    """
    left = 0.9 ** (2 * STEPS)  # BatchNorm's decay, two views a step.
    for weight in all_weights(model):
        if id(weight) in starts:
            weight.assign(left * starts[id(weight)] + (1 - left) * weight)


def train(name: str) -> dict[str, np.ndarray]:
    """Returns the losses of the steps, and all weights after them."""
    model = make_model()
    model.compile(optimizer(name))
    rng = np.random.default_rng(0)
    for weight in all_weights(model):  # Positive where one is a variance.
        draw = rng.normal(0, 0.3, weight.shape) if len(weight.shape) > 1 else None
        weight.assign(rng.uniform(0.5, 1.5, weight.shape) if draw is None else draw)
    starts = {id(w): w.numpy() for w in all_weights(model) if "moving_" in w.name}
    views = rng.normal(size=(2, STEPS * BATCH, 16, 16, 3)).astype("float32")
    labels = rng.integers(0, 3, STEPS * BATCH)
    batches = tf.data.Dataset.from_tensor_slices(((views[0], views[1]), labels)).batch(BATCH)
    logs = [model.train_on_batch(*batch, return_dict=True) for batch in batches]
    as_keras_moves_them(model, starts)
    measured = {key: np.array([float(log[key]) for log in logs]) for key in sorted(logs[0])}
    return measured | {
        f"weight_{number}": weight.numpy() for number, weight in enumerate(all_weights(model))
    }


if __name__ == "__main__":
    np.savez_compressed(
        sys.argv[1],
        **{
            f"{name}/{key}": value for name in ("lars", "sgd") for key, value in train(name).items()
        },
    )

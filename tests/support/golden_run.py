"""A run folder with one checkpoint, which either Keras must restore.

As a program (`golden_run.py FOLDER`) it writes one; that in tests/golden is from Keras 2.15. The
model is tiny and its weights are drawn, not trained: what counts is that each arrives.
"""

import sys

import keras
import numpy as np
import tensorflow as tf

from byol_tf import build, runs
from byol_tf.configs import cifar10
from byol_tf.training.callbacks.checkpoint import TrainingCheckpoint

STEP, CLASSES = 3, ("cat", "truck")


def config():
    config = cifar10.get_config("smoke").copy_and_resolve_references()
    config.update(precision="float32", projection_size=4, hidden_size=8)
    config.encoder.update(depth=18, width=1 / 64)
    return config


def new_model() -> keras.Model:
    model = build.build_model(config(), 5, CLASSES, tf.distribute.get_strategy())
    model.optimizer.build(model.trainable_variables)
    return model


def state(model: keras.Model) -> list:
    """Weights by network and layer, then the optimizer's slots in the order of its weights."""
    parts = [*model.trained, model.classifier, *model.targets]
    layers = [layer for part in parts for layer in getattr(part, "layers", [part])]
    weights = [weight for layer in layers for weight in layer.weights]
    return [*weights, *model.optimizer.slots[0]]


def drawn(model: keras.Model) -> list[np.ndarray]:
    """The value of each variable of `state`; positive, as variances are."""
    rng = np.random.default_rng(0)
    return [rng.uniform(0.5, 1.5, v.shape).astype("float32") for v in state(model)]


if __name__ == "__main__":
    folder = sys.argv[1]
    runs.claim_run_dir(folder, config().to_dict() | {"examples": 40, "classes": CLASSES})
    trained = new_model()
    saver = TrainingCheckpoint(f"{folder}/checkpoints", trained, every_steps=1)
    saver.set_model(trained)
    for variable, value in zip(state(trained), drawn(trained), strict=True):
        variable.assign(value)
    trained.optimizer.iterations.assign(STEP)
    trained.step.assign(STEP)
    saver.set_params({"steps": 10})
    saver.on_train_batch_end(0)

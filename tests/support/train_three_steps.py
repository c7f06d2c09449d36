"""Trains three BYOL steps on fixed views and saves the weights, which `test_strategy.py` compares.

As a program (`train_three_steps.py OUTPUT.npz` with TF_CONFIG set) it is one worker of a
MultiWorkerMirroredStrategy.
"""

import sys

import keras
import numpy as np
import tensorflow as tf

from byol_tf.models import networks, optimizers, schedules
from byol_tf.models.byol import BYOL
from byol_tf.training.strategy import build_strategy

STEPS, BATCH = 3, 8


def train(strategy: tf.distribute.Strategy) -> BYOL:
    keras.utils.set_random_seed(0)
    with strategy.scope():
        layers = [keras.Input((16, 16, 3))]
        for _ in range(2):
            layers += [
                keras.layers.Conv2D(8, 3, 2, use_bias=False),
                networks.BatchNorm(),
                keras.layers.ReLU(),
            ]
        encoder = keras.Sequential([*layers, keras.layers.GlobalAveragePooling2D()])
        model = BYOL(
            encoder, total_steps=10, base_ema=0.9, projection_size=8, hidden_size=16, num_classes=3
        )
        model.compile(optimizers.LARS(schedules.WarmupCosine(1.0, 1, 10), trust_coefficient=0.02))
    rng = np.random.default_rng(0)
    views = rng.normal(size=(2, STEPS * BATCH, 16, 16, 3)).astype("float32")
    labels = rng.integers(0, 3, STEPS * BATCH)

    def batches(context):
        replicas = context.num_replicas_in_sync
        dataset = tf.data.Dataset.from_tensor_slices(((views[0], views[1]), labels))
        # Worker w has the w-th share of each global batch.
        return dataset.batch(BATCH // replicas).shard(
            context.num_input_pipelines, context.input_pipeline_id
        )

    dataset = strategy.distribute_datasets_from_function(batches)
    model.fit(dataset, steps_per_epoch=STEPS, verbose=0)
    return model


if __name__ == "__main__":
    trained = train(build_strategy("multi_worker"))
    np.savez(sys.argv[1], *[weight.numpy() for weight in trained.weights])

"""Trains three BYOL steps on fixed views and saves the weights, which `test_strategy.py` compares.

As a program (`train_three_steps.py OUTPUT.npz` with TF_CONFIG set) it is one worker of a
MultiWorkerMirroredStrategy.
"""

import sys

import keras
import numpy as np
import tensorflow as tf
from tiny_byol import make_model

from byol_tf.models import optimizers, schedules
from byol_tf.models.byol import BYOL
from byol_tf.training.strategy import build_strategy

STEPS, BATCH = 3, 8


def train(strategy: tf.distribute.Strategy) -> BYOL:
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = make_model()
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

"""kNN accuracy of the encoder while it trains."""

import keras
import tensorflow as tf

from byol_tf.evaluation import features, knn


class OnlineKNN(keras.callbacks.Callback):
    """Adds `knn_accuracy`, top-1 in [0, 1], to the logs of every `every_epochs`-th epoch.

    Every fifth example is a query, the others vote; so this is a number for training images, to
    watch a run. Results to report come from `byol-evaluate`, on separate images.

    Args:
        dataset: Finite labelled dataset of `(images, labels, keys)`, as `data.evaluation_dataset`
            returns it; costs one forward pass.
        every_epochs: Number of epochs between evaluations, at least 1.
    """

    def __init__(self, dataset: tf.data.Dataset, every_epochs: int):
        super().__init__()
        self.dataset = dataset
        self.every_epochs = every_epochs

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Adds `knn_accuracy` to the logs if this epoch is evaluated."""
        if (epoch + 1) % self.every_epochs == 0:
            logs["knn_accuracy"] = self.accuracy()

    def accuracy(self) -> float:
        """Computes the accuracy of the model in its current state."""
        examples = features.extract(self.model.encoder, self.dataset)
        queries = examples.select(slice(0, None, 5))
        votes = examples.select([i for i in range(len(examples.labels)) if i % 5])
        return knn.knn_accuracy(votes, queries).top_1

"""kNN accuracy of the encoder while it trains."""

import keras
import tensorflow as tf

from byol_tf.evaluation import features, knn


class OnlineKNN(keras.callbacks.Callback):
    """Adds `knn_accuracy` to the logs of every `every_epochs`-th epoch: top-1, in [0, 1].

    Labelled examples only. Every fifth example is a query, the others vote; so this is a figure of the training
    images, to watch a run by. What is reported of an encoder comes from `byol-evaluate`, on images apart.

    Args:
        dataset: finite, of `(images, labels, keys)` as `data.evaluation_dataset` gives; costs one forward pass.
        every_epochs: ≥ 1.
    """

    def __init__(self, dataset: tf.data.Dataset, every_epochs: int):
        super().__init__()
        self.dataset = dataset
        self.every_epochs = every_epochs

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every_epochs == 0:
            logs["knn_accuracy"] = self.accuracy()

    def accuracy(self) -> float:
        """Of the model as it is now."""
        examples = features.extract(self.model.encoder, self.dataset)
        queries = examples.select(slice(0, None, 5))
        votes = examples.select([i for i in range(len(examples.labels)) if i % 5])
        return knn.knn_accuracy(votes, queries).top_1

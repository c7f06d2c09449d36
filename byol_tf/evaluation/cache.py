"""Features on disk: one pass over a data set for each encoder, however many protocols read it."""

import dataclasses
import hashlib
import json
import os

import numpy as np
import tensorflow as tf
from absl import logging

from byol_tf.data import augmented_dataset, evaluation_dataset
from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder
from byol_tf.evaluation.features import Features, extract
from byol_tf.files import replacing
from byol_tf.sources import Source

_BATCH_SIZE = 256


class FeatureCache:
    """Extracts features, or reads those that an earlier call left.

    What names a file is all that decides its content: the encoder's weights, the images (their
    names, sizes and times of change), the preprocessing and the seed of the crops. Nothing is ever
    removed: 4 (D + 1) bytes and a key for each image and pass.

    Args:
        folder: of the files; made when the first is written. None keeps none.
    """

    def __init__(self, folder: str | None):
        self.folder = folder

    def extract(
        self, pretrained: EvaluatedEncoder, source: Source, *, augmentation_seed: int | None = None
    ) -> Features:
        """Features of all images of `source`, as `features.extract` gives them.

        Args:
            pretrained: the encoder and its preprocessing.
            source: images.
            augmentation_seed: of random crops and flips; None takes centre crops.

        Raises:
            UserError: as `features.extract`.
        """
        path = None
        if self.folder is not None:
            path = os.path.join(
                self.folder, f"{_name(pretrained, source, augmentation_seed)}.features"
            )
            if tf.io.gfile.exists(path):
                logging.info("%s: features of '%s' are in %s", pretrained.name, source.name, path)
                return _read(path)
        if augmentation_seed is None:
            dataset = evaluation_dataset(source, pretrained.preprocessing, _BATCH_SIZE)
        else:
            dataset = augmented_dataset(
                source, pretrained.preprocessing, _BATCH_SIZE, augmentation_seed
            )
        features = extract(pretrained.encoder, dataset)
        if path is not None:
            _write(path, features)
        return features


def _name(pretrained: EvaluatedEncoder, source: Source, augmentation_seed: int | None) -> str:
    content = {
        "encoder": pretrained.fingerprint,
        "preprocessing": dataclasses.asdict(pretrained.preprocessing),
        "images": source.fingerprint(),
        "train_seed": augmentation_seed,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _read(path: str) -> Features:
    with tf.io.gfile.GFile(path, "rb") as file:
        return Features(*(np.lib.format.read_array(file) for _ in dataclasses.fields(Features)))


def _write(path: str, features: Features) -> None:
    """One array after the other, in NumPy's format: an .npz would have to seek, which gfile cannot."""
    tf.io.gfile.makedirs(os.path.dirname(path))
    with replacing(path) as temporary, tf.io.gfile.GFile(temporary, "wb") as file:
        for column in (features.representations, features.labels, features.keys):
            # Keys are objects, of any length; as one width they need no pickle.
            array = column.astype(np.bytes_) if column.dtype == object else column
            np.lib.format.write_array(file, array, allow_pickle=False)

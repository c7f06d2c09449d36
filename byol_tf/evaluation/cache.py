"""Features cached on disk, so that each encoder sees a data set once for all protocols."""

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
    """Extracts features, or reads them from disk where an earlier call stored them.

    A file is named by everything that decides its content: the encoder's weights, the images (their
    names, sizes and modification times), the preprocessing and the seed of the crops. Nothing is
    ever removed; each image takes 4 (D + 1) bytes and its key per pass.

    Args:
        folder: Folder of the files, created when the first is written. None stores nothing.
    """

    def __init__(self, folder: str | None):
        self.folder = folder

    def extract(
        self, encoder: EvaluatedEncoder, source: Source, *, augmentation_seed: int | None = None
    ) -> Features:
        """Returns the features of all images of `source`, as `features.extract` gives them.

        Args:
            encoder: Encoder with its preprocessing.
            source: Images to encode.
            augmentation_seed: Seed of the random crops and flips; None takes centre crops.

        Raises:
            UserError: What `features.extract` raises.
        """
        path = None
        if self.folder is not None:
            path = os.path.join(
                self.folder, f"{_name(encoder, source, augmentation_seed)}.features"
            )
            if tf.io.gfile.exists(path):
                logging.info("%s: features of '%s' are in %s", encoder.name, source.name, path)
                return _read(path)
        if augmentation_seed is None:
            dataset = evaluation_dataset(source, encoder.preprocessing, _BATCH_SIZE)
        else:
            dataset = augmented_dataset(
                source, encoder.preprocessing, _BATCH_SIZE, augmentation_seed
            )
        features = extract(encoder.encode, dataset)
        if path is not None:
            _write(path, features)
        return features


def _name(encoder: EvaluatedEncoder, source: Source, augmentation_seed: int | None) -> str:
    content = {
        "encoder": encoder.fingerprint,
        "preprocessing": dataclasses.asdict(encoder.preprocessing),
        "images": source.fingerprint(),
        "train_seed": augmentation_seed,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _read(path: str) -> Features:
    with tf.io.gfile.GFile(path, "rb") as file:
        return Features(*(np.lib.format.read_array(file) for _ in dataclasses.fields(Features)))


def _write(path: str, features: Features) -> None:
    """Writes the arrays in .npy format, one after the other; .npz would need to seek in GFile."""
    tf.io.gfile.makedirs(os.path.dirname(path))
    with replacing(path) as temporary, tf.io.gfile.GFile(temporary, "wb") as file:
        for column in (features.representations, features.labels, features.keys):
            # Keys are objects; as bytes of a fixed width they need no pickle.
            array = column.astype(np.bytes_) if column.dtype == object else column
            np.lib.format.write_array(file, array, allow_pickle=False)

"""Representations of a data set, computed once and shared by all protocols of a frozen encoder."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from byol_tf.errors import UserError
from byol_tf.models.networks import check_flat


@dataclasses.dataclass(frozen=True)
class Features:
    """Representations, labels and keys of a data set, in host memory.

    Attributes:
        representations: Outputs of the encoder, float32 `[N, D]`.
        labels: Labels, int32 `[N]`, -1 where unknown.
        keys: Names of the examples, bytes `[N]`.
    """

    representations: np.ndarray
    labels: np.ndarray
    keys: np.ndarray

    def select(self, indices: np.ndarray | slice | Sequence[int]) -> "Features":
        """Returns the examples at `indices`: a slice, a mask, or positions."""
        return Features(self.representations[indices], self.labels[indices], self.keys[indices])


def extract(encoder: Callable[..., tf.Tensor], dataset: tf.data.Dataset) -> Features:
    """Runs the encoder over the data once, in inference mode.

    Args:
        encoder: Keras model or any function `(images, training)`, float `[B, H, W, 3]` ->
            `[B, D]`.
        dataset: Finite data set of `(images, labels, keys)`, as `data.evaluation_dataset` gives.

    Returns:
        Features of all images, in float32 even if the encoder computes in half precision.

    Raises:
        UserError: The encoder gives a feature map or values that are not finite, or there are no
            images.
    """
    image_spec = dataset.element_spec[0]

    @tf.function(
        autograph=False,
        input_signature=[tf.TensorSpec([None, *image_spec.shape[1:]], image_spec.dtype)],
    )
    def represent(images):
        representations = encoder(images, training=False)
        check_flat(representations.shape)
        return tf.cast(representations, tf.float32)

    batches = []
    done = 0
    for images, labels, keys in dataset:
        batches.append((represent(images).numpy(), labels.numpy(), keys.numpy()))
        done += len(batches[-1][0])
        logging.log_every_n_seconds(logging.INFO, "encoded %d images", 10, done)
    if not done:
        raise UserError("there are no images to encode; give a data set with at least one.")
    features = Features(*(np.concatenate(column) for column in zip(*batches, strict=True)))
    _check_finite(features)
    return features


def align(passes: Sequence[Features]) -> list[Features]:
    """Returns several passes over one data set, cut to the examples that all of them hold.

    Passes can differ: a JPEG damaged near its end still gives random crops above the damage.

    Raises:
        UserError: Keys repeat, so examples cannot be told apart.
    """
    if all(np.array_equal(features.keys, passes[0].keys) for features in passes):
        return list(passes)
    common = set(passes[0].keys).intersection(*(features.keys for features in passes[1:]))
    aligned = [
        features.select([position for position, key in enumerate(features.keys) if key in common])
        for features in passes
    ]
    if any(not np.array_equal(features.keys, aligned[0].keys) for features in aligned):
        raise UserError(
            "several examples have the same key and one of them is corrupt; make image/key unique "
            "or remove the corrupt images (the log names each)."
        )
    return aligned


def check_labelled(features: Features, role: str) -> None:
    """Raises `UserError` unless every example has a label; `role` names the set in the message."""
    unknown = np.flatnonzero(features.labels < 0)
    if unknown.size:
        raise UserError(
            f"{unknown.size} of the {len(features.labels)} {role} examples have no label (first: "
            f"{_name(features, unknown[0])}), and accuracy needs labels; give a folder with one "
            "subfolder per class, or TFRecords with image/label."
        )


def _check_finite(features: Features) -> None:
    broken = np.flatnonzero(~np.isfinite(features.representations).all(axis=1))
    if broken.size:
        raise UserError(
            f"the representations of {broken.size} of {len(features.keys)} images are not finite "
            f"(first: {_name(features, broken[0])}); if this holds for all of them, the run has "
            "diverged: take an earlier checkpoint."
        )


def _name(features: Features, position: int) -> str:
    return features.keys[position].decode(errors="replace")

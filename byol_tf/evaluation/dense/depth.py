"""Monocular depth estimation (paper section 4.3, appendix D.6, on NYU Depth v2).

The network is that of Laina et al. 2016. The data are a folder with `images/NAME.jpg` or `.png` and
`depth/NAME.png`: 16-bit millimetres, 0 where the depth is unknown.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import keras
import ml_collections
import numpy as np
import tensorflow as tf
from absl import logging

from byol_tf.errors import UserError
from byol_tf.evaluation.dense import pairs
from byol_tf.evaluation.dense.depth_network import berhu_loss, build_depth_network
from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder
from byol_tf.evaluation.splits import Splits
from byol_tf.images import seeded
from byol_tf.images.preprocessing import Preprocessing, decode_image

if TYPE_CHECKING:
    from PIL.Image import Image

_IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")
_SMALLEST_DEPTH = 1e-3  # Metres, one step of the files; smaller predictions are raised to it.


@dataclasses.dataclass(frozen=True)
class DepthResult:
    """Errors over all test pixels with a known depth.

    Attributes:
        within_1_25, within_1_25_2, within_1_25_3: Fraction of the pixels, in [0, 1], where
            max(prediction / truth, truth / prediction) is below 1.25, 1.25² and 1.25³.
        rms: Root of the mean squared error, in metres.
        rel: Mean of |prediction - truth| / truth.
        num_test: Number of test images.
    """

    within_1_25: float
    within_1_25_2: float
    within_1_25_3: float
    rms: float
    rel: float
    num_test: int

    def cells(self) -> dict[str, str]:
        """Returns the cells of the results table by header."""
        return {
            "depth < 1.25, %": f"{100 * self.within_1_25:.1f}",
            "depth < 1.25², %": f"{100 * self.within_1_25_2:.1f}",
            "depth < 1.25³, %": f"{100 * self.within_1_25_3:.1f}",
            "depth rms, m": f"{self.rms:.3f}",
            "depth rel": f"{self.rel:.3f}",
        }


def evaluate(
    encoder: EvaluatedEncoder, splits: Splits, config: ml_collections.ConfigDict
) -> DepthResult:
    """Runs the protocol.

    Args:
        encoder: Encoder, fine-tuned as a whole on images of any size; of its preprocessing only the
            normalisation is used.
        splits: Splits whose train and test are folders.
        config: Section `depth`.

    Raises:
        UserError: A value, folder, image or depth map is bad, the encoder cannot be trained, or
            training diverged.
    """
    _check_config(config)
    backbone = encoder.trainable()
    keras.utils.set_random_seed(splits.seed)  # For the new weights.
    model = build_depth_network(backbone, config.filters)
    train_pairs, test_pairs = (
        _checked_pairs(folder, config, encoder.preprocessing.decode)
        for folder in (splits.train, splits.test)
    )
    logging.info("depth: %d training and %d test images", len(train_pairs), len(test_pairs))
    data = _training_batches(train_pairs, encoder.preprocessing, config, splits.seed)
    pairs.fit(model, berhu_loss, data, config.learning_rate, config)
    return _test(model, test_pairs, encoder.preprocessing, config)


class DepthErrors:
    """Errors of a test set, summed batch by batch."""

    def __init__(self) -> None:
        self._count = 0
        self._sums = np.zeros(5)

    def add(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Adds maps `[...]` of the same shape, in metres; the truth is 0 where it is unknown."""
        known = truth > 0
        truth = truth[known].astype(np.float64)
        predicted = np.maximum(predicted[known].astype(np.float64), _SMALLEST_DEPTH)
        ratio = np.maximum(predicted / truth, truth / predicted)
        error = np.abs(predicted - truth)
        self._count += len(truth)
        self._sums += [
            *(np.count_nonzero(ratio < 1.25**power) for power in (1, 2, 3)),
            np.sum(error**2),
            np.sum(error / truth),
        ]

    def result(self, num_test: int) -> DepthResult:
        """Returns the means over everything added."""
        within_1, within_2, within_3, squared, relative = (self._sums / self._count).tolist()
        return DepthResult(within_1, within_2, within_3, math.sqrt(squared), relative, num_test)


def _check_config(config: ml_collections.ConfigDict) -> None:
    pairs.check_training("depth", config)
    for field, fits, wanted in (
        ("learning_rate", config.learning_rate > 0, "a positive number"),
        ("downsample", 0 < config.downsample <= 1, "a number in (0, 1]"),
        ("crop", len(config.crop) == 2 and min(config.crop) >= 1, "height and width, in pixels"),
        ("filters", len(config.filters) >= 1 and min(config.filters) >= 1, "positive numbers"),
        ("grayscale_prob", 0 <= config.grayscale_prob <= 1, "a number in [0, 1]"),
        ("brightness", config.brightness >= 0, "0 or more"),
        (
            "saturation",
            len(config.saturation) == 2 and 0 <= config.saturation[0] < config.saturation[1],
            "two factors, the lower first",
        ),
        ("hue", 0 <= config.hue <= 0.5, "a number in [0, 0.5]"),
    ):
        if not fits:
            raise UserError(f"depth.{field} is {config[field]}; give {wanted}.")


def _checked_pairs(
    root: str,
    config: ml_collections.ConfigDict,
    decode: Callable[[tf.Tensor], tf.Tensor] = decode_image,
) -> list[tuple[str, str]]:
    """Returns the paths of images and depth maps, sorted by name, after checking every pixel."""
    images = _by_stem(root, "images", _IMAGE_ENDINGS)
    maps = _by_stem(root, "depth", (".png",))
    if not images:
        raise UserError(
            f"'{root}' holds no images in 'images'; give a folder with images/ and depth/."
        )
    lonely = sorted(images.keys() ^ maps.keys())
    if lonely:
        has, lacks = ("images", "depth") if lonely[0] in images else ("depth", "images")
        raise UserError(
            f"{len(lonely)} images and depth maps of '{root}' have no partner (first: "
            f"'{lonely[0]}' is in '{has}' but not in '{lacks}'); add the missing files, or remove "
            "these."
        )
    paths = [(images[stem], maps[stem]) for stem in sorted(images)]
    truth_size = _truth_size(config)

    def check(depth: "Image", path: str) -> None:
        if not depth.mode.startswith("I"):
            raise UserError(
                f"the depth map '{path}' is not a 16-bit grey PNG (its mode is {depth.mode}); save "
                "millimetres as one."
            )
        if np.any(np.round(np.multiply(depth.size[::-1], config.downsample)) < config.crop):
            raise UserError(
                "'{}' has {} x {} pixels, which scaled by depth.downsample = {} is smaller than "
                "depth.crop, {} x {}; change these values.".format(
                    path, *depth.size, config.downsample, *reversed(config.crop)
                )
            )
        if not np.any(_cropped(np.asarray(depth)[..., np.newaxis], truth_size)):
            raise UserError(
                f"the depth map '{path}' has no known depth, only 0, in the central "
                f"{truth_size[0]} x {truth_size[1]} pixels; remove the pair."
            )

    pairs.check_pairs(paths, check, decode)
    return paths


def _by_stem(root: str, folder: str, endings: tuple[str, ...]) -> dict[str, str]:
    path = os.path.join(root, folder)
    if not tf.io.gfile.isdir(path):
        raise UserError(
            f"'{root}' has no folder '{folder}'; give a folder with images/ and depth/."
        )
    names = [os.path.splitext(name) for name in tf.io.gfile.listdir(path)]
    return {
        stem: os.path.join(path, stem + ending)
        for stem, ending in names
        if ending.lower() in endings
    }


def _truth_size(config: ml_collections.ConfigDict) -> list[int]:
    """Returns height and width of the crop at the resolution of the files."""
    return np.round(np.divide(config.crop, config.downsample)).astype(int).tolist()


def _read_depth(path: tf.Tensor) -> tf.Tensor:
    """Returns float32 `[H, W, 1]`, in metres."""
    millimetres = tf.io.decode_png(tf.io.read_file(path), channels=1, dtype=tf.uint16)
    return tf.cast(millimetres, tf.float32) / 1000.0


def _cropped(image: tf.Tensor | np.ndarray, size: Sequence[int]) -> tf.Tensor:
    """Returns the central part, with the static shape `[height, width, D]`."""
    return tf.image.resize_with_crop_or_pad(image, *size)


def _resized(image: tf.Tensor, factor: float, method: str, antialias: bool = False) -> tf.Tensor:
    size = tf.round(factor * tf.cast(tf.shape(image)[:2], tf.float32))
    return tf.image.resize(image, tf.cast(size, tf.int32), method, antialias=antialias)


def _read_network_input(
    path: tf.Tensor, preprocessing: Preprocessing, config: ml_collections.ConfigDict
) -> tf.Tensor:
    """Returns the network's input before augmentation: float32 `[h, w, C]` in [0, 1]."""
    image = pairs.read_image(path, preprocessing)
    image = _resized(image, config.downsample, "bilinear", antialias=True)
    return _cropped(image, config.crop)


def _training_batches(
    paths: Sequence[tuple[str, str]],
    preprocessing: Preprocessing,
    config: ml_collections.ConfigDict,
    seed: int,
) -> tf.data.Dataset:
    """Returns normalised images float32 `[B, h, w, C]` and depths float32 `[B, h, w]` in metres."""
    of_colors = preprocessing.channels == 3

    def example(image_path, depth_path, example_seed):
        image = _read_network_input(image_path, preprocessing, config)
        depth = _resized(_read_depth(depth_path), config.downsample, "nearest")
        depth = _cropped(depth, config.crop)[..., 0]
        *seeds, seed_of_choices = tf.unstack(tf.random.split(example_seed, 4, alg="philox"))
        flip, gray = tf.unstack(seeded.uniform([2], seed_of_choices))
        image, depth = (tf.where(flip < 0.5, x[:, ::-1], x) for x in (image, depth))
        if of_colors:
            gray_image = tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(image))
            image = tf.where(gray < config.grayscale_prob, gray_image, image)
        image = tf.image.stateless_random_brightness(image, config.brightness, seeds[0])
        image = tf.clip_by_value(image, 0.0, 1.0)  # Saturation and hue need colours in [0, 1].
        if of_colors:
            image = tf.image.stateless_random_saturation(image, *config.saturation, seeds[1])
            image = tf.image.stateless_random_hue(image, config.hue, seeds[2])
        return preprocessing.normalize(tf.clip_by_value(image, 0.0, 1.0)), depth

    return pairs.batches(paths, example, config.batch_size, config.steps, seed)


def _test(
    model: keras.Model,
    paths: Sequence[tuple[str, str]],
    preprocessing: Preprocessing,
    config: ml_collections.ConfigDict,
) -> DepthResult:
    """Evaluates at the truth's resolution, on the part of the truth that the network sees."""
    truth_size = _truth_size(config)

    def load(image_path, depth_path):
        image = preprocessing.normalize(_read_network_input(image_path, preprocessing, config))
        return image, _cropped(_read_depth(depth_path), truth_size)[..., 0]

    columns = tuple(tf.constant(column) for column in zip(*paths, strict=True))
    dataset = tf.data.Dataset.from_tensor_slices(columns).map(load, tf.data.AUTOTUNE)

    @tf.function(autograph=False, reduce_retracing=True)
    def predict(images):
        depth = model(images, training=False)[..., tf.newaxis]
        return tf.image.resize(depth, truth_size)[..., 0]

    errors = DepthErrors()
    for images, truth in dataset.batch(min(config.batch_size, 16)).prefetch(tf.data.AUTOTUNE):
        errors.add(truth.numpy(), predict(images).numpy())
    return errors.result(len(paths))

"""The two view distributions T and T' of BYOL (paper section 3.1, appendix B, table 6).

The crop is random_crop.py's, on the host. What follows, `augment`, is batched and runs anywhere:
eagerly, in tf.data, inside `train_step` under XLA. `TwoViews` joins both to whole views. There is
no state: an explicit seed, two integers, decides every draw, the same on host and device.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from tensorflow import keras

from byol_tf.images import color_ops, preprocessing, random_crop, seeded
from byol_tf.images.view_config import VIEW_1, VIEW_2, ViewConfig

_TO_PLANES, _TO_PIXELS = [0, 3, 1, 2], [0, 2, 3, 1]


def augment(images: tf.Tensor, seed: tf.Tensor, view: ViewConfig) -> tf.Tensor:
    """Everything a view goes through after the crop, each image with draws of its own.

    Args:
        images: float32 [B, S, S, 3] in [0, 1]; S is static.
        seed: int [2].
        view: the distribution.

    Returns:
        float32 [B, S, S, 3] in [0, 1].
    """
    planes = _augment_planes(tf.transpose(images, _TO_PLANES), seed, view)
    return tf.transpose(planes, _TO_PIXELS)


def _augment_planes(planes: tf.Tensor, seed: tf.Tensor, view: ViewConfig) -> tf.Tensor:
    """`augment` of planes, float32 [B, 3, S, S]."""
    flip, jitter, order, brightness, contrast, saturation, hue, gray, blur, sigma, solarize = (
        tf.unstack(seeded.uniform([11, tf.shape(planes)[0]], seed))
    )
    min_sigma, max_sigma = view.blur_sigma
    jitters = (
        draw_orders(order),
        (2.0 * brightness - 1.0) * view.brightness,
        (2.0 * contrast - 1.0) * view.contrast + 1.0,
        (2.0 * saturation - 1.0) * view.saturation + 1.0,
        (2.0 * hue - 1.0) * view.hue,
    )
    sigmas = min_sigma + (max_sigma - min_sigma) * sigma
    for draw, probability, operation, arguments in (
        (flip, view.flip_prob, color_ops.flip, ()),
        (jitter, view.jitter_prob, color_ops.color_jitter, jitters),
        (gray, view.grayscale_prob, color_ops.to_grayscale, ()),
        (blur, view.blur_prob, color_ops.gaussian_blur, (sigmas,)),
        (solarize, view.solarize_prob, color_ops.solarize, (view.solarize_threshold,)),
    ):
        if probability > 0:
            planes = color_ops.apply_where(draw < probability, operation, planes, *arguments)
    return tf.clip_by_value(planes, 0.0, 1.0)


def draw_orders(draws: tf.Tensor) -> tf.Tensor:
    """Maps draws in [0, 1), float [B], to equally likely orders of the colour jitter, int32 [B]."""
    return seeded.uniform_int(draws, tf.constant(len(color_ops.ORDERS) - 1))


@keras.utils.register_keras_serializable("byol_tf")
class TwoViews(keras.layers.Layer):
    """Two views of each image, one drawn from T and one from T', normalised.

    Called, it makes them of crops, in `train_step` on the device. `from_bytes` makes them of an
    image file, on the host.

    Args:
        view_1: T, a `ViewConfig` or a dict of its fields.
        view_2: T', likewise.
        mean, std: of each channel of RGB in [0, 1], for the normalisation that ends a view.

    Raises:
        UserError: if a number is out of range.
    """

    def __init__(
        self,
        view_1: ViewConfig | dict = VIEW_1,
        view_2: ViewConfig | dict = VIEW_2,
        mean: tuple[float, float, float] = preprocessing.IMAGENET_MEAN,
        std: tuple[float, float, float] = preprocessing.IMAGENET_STD,
        **kwargs,
    ):
        # Under a mixed policy too: pixels are not activations.
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        preprocessing.check_normalization(mean, std)
        self.view_1, self.view_2 = (
            view if isinstance(view, ViewConfig) else ViewConfig(**view)
            for view in (view_1, view_2)
        )
        self.mean, self.std = tuple(mean), tuple(std)

    def call(
        self, crops: tuple[tf.Tensor, tf.Tensor], seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Augments and normalises.

        Args:
            crops: a pair of float32 [B, S, S, 3] in [0, 1]; S is static.
            seed: int [2].

        Returns:
            (view_1, view_2), float32 [B, S, S, 3], without gradient.
        """
        planes = [tf.transpose(crop, _TO_PLANES) for crop in crops]
        views = self._normalized_views(planes, seed)
        return tuple(tf.stop_gradient(tf.transpose(view, _TO_PIXELS)) for view in views)

    def from_bytes(
        self, image_bytes: tf.Tensor, seed: tf.Tensor, image_size: int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Makes the two views of one image file, for `Dataset.map`.

        One image at a time fits the cache of a CPU and skips what was not drawn; XLA fuses the
        rest. That was several times as fast as a batch, with or without XLA.

        Args:
            image_bytes: scalar string, the file's content.
            seed: int [2].
            image_size: side S of the views, in pixels.

        Returns:
            (view_1, view_2), float32 [S, S, 3]: what `call` gives of
            `decode_and_random_crops`, with the two seeds that `seed` splits into.

        Raises:
            tf.errors.InvalidArgumentError: when run, if the bytes are no complete image.
        """
        crop_seed, view_seed = tf.unstack(tf.random.split(seed, 2, alg="philox"))
        views = self.view_1, self.view_2
        crops = random_crop.resized_crops(image_bytes, crop_seed, image_size, views)
        # Out here, XLA cannot trade the transposition for strided planes, which doubled the time of
        # the blur.
        planes = [tf.transpose(crop[tf.newaxis], _TO_PLANES) for crop in crops]
        views = self._compiled_views(planes, view_seed)
        return tuple(tf.transpose(view, _TO_PIXELS)[0] for view in views)

    @functools.cached_property
    def _compiled_views(self) -> Callable:
        return tf.function(
            lambda planes, seed: self._normalized_views(
                [preprocessing.to_unit_range(plane) for plane in planes], seed
            ),
            jit_compile=True,
        )

    def _normalized_views(self, planes: Sequence[tf.Tensor], seed: tf.Tensor) -> list[tf.Tensor]:
        seeds = tf.unstack(tf.random.split(seed, 2, alg="philox"))
        mean, std = (np.reshape(values, [3, 1, 1]) for values in (self.mean, self.std))
        return [
            preprocessing.normalize(_augment_planes(*arguments), mean, std)
            for arguments in zip(planes, seeds, (self.view_1, self.view_2), strict=True)
        ]

    def get_config(self) -> dict:
        """Returns the constructor's arguments as plain data."""
        return {
            **super().get_config(),
            "view_1": dataclasses.asdict(self.view_1),
            "view_2": dataclasses.asdict(self.view_2),
            "mean": self.mean,
            "std": self.std,
        }

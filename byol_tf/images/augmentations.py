"""The two view distributions T and T' of BYOL (paper section 3.1, appendix B, table 6).

The random crop (random_crop.py) is taken on the host. Everything after it, `augment`, is batched
and runs anywhere: eagerly, in tf.data, inside `train_step` under XLA. `TwoViews` combines both into
complete views. There is no state: an explicit seed of two integers decides every draw, the same on
host and device.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.images import color_ops, preprocessing, random_crop, seeded
from byol_tf.images.view_config import VIEW_1, VIEW_2, SmallCrops, ViewConfig

_TO_PLANES, _TO_PIXELS = [0, 3, 1, 2], [0, 2, 3, 1]


def augment(images: tf.Tensor, seed: tf.Tensor, view: ViewConfig) -> tf.Tensor:
    """Applies everything that follows the crop, with draws of its own for each image.

    Args:
        images: Crops, float32 `[B, S, S, C]` in [0, 1]; S and C are static.
        seed: Seed of the draws, int `[2]`.
        view: View distribution.

    Returns:
        float32 `[B, S, S, C]` in [0, 1].
    """
    planes = _augment_planes(tf.transpose(images, _TO_PLANES), seed, view)
    return tf.transpose(planes, _TO_PIXELS)


def _augment_planes(planes: tf.Tensor, seed: tf.Tensor, view: ViewConfig) -> tf.Tensor:
    """Applies `augment` to planes, float32 `[B, C, S, S]`."""
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
    """Maps draws in [0, 1), float `[B]`, to equally likely colour jitter orders, int32 `[B]`."""
    return seeded.uniform_int(draws, tf.constant(len(color_ops.ORDERS) - 1))


@keras.utils.register_keras_serializable("byol_tf")
class TwoViews(keras.layers.Layer):
    """A layer that makes two views of each image, one drawn from T and one from T', normalised.

    Calling the layer makes them from crops, in `train_step` on the device. `from_bytes` makes them
    from an image file, on the host.

    Args:
        view_1: T, a `ViewConfig` or a dict of its fields.
        view_2: T', in the same form.
        mean, std: Mean and standard deviation of each of the C channels, in [0, 1], for the
            normalisation at the end.
        bit_depth: 8 or 16, of the images that `from_bytes` decodes.
        small: Small crops that follow the two views, a `SmallCrops` or a dict of its fields; None
            makes none. They leave the two views as they are.

    Raises:
        UserError: A number is out of range, or a view has an operation on colours, but the images
            are not RGB.
    """

    def __init__(
        self,
        view_1: ViewConfig | dict = VIEW_1,
        view_2: ViewConfig | dict = VIEW_2,
        mean: tuple[float, ...] = preprocessing.IMAGENET_MEAN,
        std: tuple[float, ...] = preprocessing.IMAGENET_STD,
        bit_depth: int = 8,
        small: SmallCrops | dict | None = None,
        **kwargs: Any,
    ):
        # float32 under a mixed policy too: pixels are not activations.
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        preprocessing.check_normalization(mean, std)
        self.view_1, self.view_2 = (
            view if isinstance(view, ViewConfig) else ViewConfig(**view)
            for view in (view_1, view_2)
        )
        self.mean, self.std = tuple(mean), tuple(std)
        self.bit_depth = bit_depth
        self.small = SmallCrops(**small) if isinstance(small, dict) else small
        views = [self.view_1, self.view_2, *([self.small.view] if self.small else [])]
        colored = [name for view in views for name in view.color_operations()]
        if len(mean) != 3 and colored:
            raise UserError(
                f"the views have {', '.join(dict.fromkeys(colored))}, which need RGB, but mean has "
                f"{len(mean)} values; set them to 0."
            )
        self.built = True  # There are no weights.

    def call(self, crops: tuple[tf.Tensor, ...], seed: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Augments and normalises crops.

        Args:
            crops: Pair of float32 `[B, S, S, C]` in [0, 1], and small crops; S and C are static.
            seed: Seed of the draws, int `[2]`.

        Returns:
            (view_1, view_2, *small_crops), of the shapes of `crops`, float32, without gradient.
        """
        planes = [tf.transpose(crop, _TO_PLANES) for crop in crops]
        views = self._normalized_views(planes, seed)
        return tuple(tf.stop_gradient(tf.transpose(view, _TO_PIXELS)) for view in views)

    def from_bytes(
        self, image_bytes: tf.Tensor, seed: tf.Tensor, image_size: int
    ) -> tuple[tf.Tensor, ...]:
        """Makes the views of one image file, for `Dataset.map`.

        One image at a time fits the cache of a CPU and skips operations that were not drawn; XLA
        fuses the rest. That was several times as fast as a batch, with or without XLA.

        Args:
            image_bytes: Content of the file, scalar string.
            seed: Seed of the draws, int `[2]`.
            image_size: Side S of the views, in pixels.

        Returns:
            (view_1, view_2, *small_crops), float32 `[S, S, C]`: what `call` returns for `crops`,
            with the two seeds that `seed` splits into.

        Raises:
            tf.errors.InvalidArgumentError: The bytes are not a complete image; raised when run.
        """
        crop_seed, view_seed = tf.unstack(tf.random.split(seed, 2, alg="philox"))
        crops = self._resized_crops(image_bytes, crop_seed, image_size)
        # Outside the compiled function XLA cannot replace the transposition by strided planes,
        # which doubled the time of the blur.
        planes = [tf.transpose(crop[tf.newaxis], _TO_PLANES) for crop in crops]
        views = self._compiled_views(planes, view_seed)
        return tuple(tf.transpose(view, _TO_PIXELS)[0] for view in views)

    def crops(
        self, image_bytes: tf.Tensor, seed: tf.Tensor, image_size: int
    ) -> tuple[tf.Tensor, ...]:
        """Makes the crops of one image file for `call`: float32 `[S, S, C]` in [0, 1]."""
        crops = self._resized_crops(image_bytes, seed, image_size)
        return tuple(preprocessing.to_unit_range(crop, self.bit_depth) for crop in crops)

    def _resized_crops(
        self, image_bytes: tf.Tensor, seed: tf.Tensor, image_size: int
    ) -> list[tf.Tensor]:
        views = [self.view_1, self.view_2]
        pixels = len(self.mean), self.bit_depth
        crops = random_crop.resized_crops(image_bytes, seed, image_size, views, *pixels)
        if self.small is not None:
            # Decoded by themselves: at the border of the part that is decoded, a JPEG's colours
            # are extrapolated, so in one part the small crops would change the two views.
            views = [self.small.view] * self.small.count
            seed = _small_seed(seed)
            crops += random_crop.resized_crops(image_bytes, seed, self.small.size, views, *pixels)
        return crops

    @functools.cached_property
    def _compiled_views(self) -> Callable:
        return tf.function(
            lambda planes, seed: self._normalized_views(
                [preprocessing.to_unit_range(plane, self.bit_depth) for plane in planes], seed
            ),
            jit_compile=True,
        )

    def _normalized_views(self, planes: Sequence[tf.Tensor], seed: tf.Tensor) -> list[tf.Tensor]:
        seeds = tf.unstack(tf.random.split(seed, 2, alg="philox"))
        views = [self.view_1, self.view_2]
        if self.small is not None:
            count = self.small.count
            seeds += tf.unstack(tf.random.split(_small_seed(seed), count, alg="philox"))
            views += [self.small.view] * count
        mean, std = (tf.reshape(values, [-1, 1, 1]) for values in (self.mean, self.std))
        return [
            preprocessing.normalize(_augment_planes(*arguments), mean, std)
            for arguments in zip(planes, seeds, views, strict=True)
        ]

    def get_config(self) -> dict:
        """Returns the constructor's arguments as plain data."""
        return {
            **super().get_config(),
            "view_1": dataclasses.asdict(self.view_1),
            "view_2": dataclasses.asdict(self.view_2),
            "mean": self.mean,
            "std": self.std,
            "bit_depth": self.bit_depth,
            "small": self.small and dataclasses.asdict(self.small),
        }


def _small_seed(seed: tf.Tensor) -> tf.Tensor:
    """Returns the seed of the small crops; independent of what the two views draw from `seed`."""
    return tf.random.fold_in(seed, 2, alg="philox")

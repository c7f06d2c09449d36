"""The two view distributions T and T' of BYOL (paper section 3.1, appendix B, table 6).

Crops are taken on the host, while the image is decoded. What follows, `augment`, is batched,
statically shaped and runs anywhere: eagerly, in tf.data, inside `train_step` under XLA. `TwoViews`
joins both to whole views.

Nothing here holds state: an explicit seed, two integers, decides every draw, the same on host and
device.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from tensorflow import keras

from byol_tf import errors, image_ops, preprocessing

_TO_PLANES, _TO_PIXELS = [0, 3, 1, 2], [0, 2, 3, 1]


@dataclasses.dataclass(frozen=True)
class ViewConfig:
    """The numbers of one view distribution; the defaults are what T and T' share (paper table 6).

    Attributes:
        crop_area: range of the crop's area, as a fraction of the image's, in (0, 1].
        crop_aspect: range of the crop's width / height, drawn log-uniformly.
        flip_prob: probability of a left-right flip.
        jitter_prob: probability of the colour jitter as a whole.
        brightness: largest value added or subtracted, of RGB in [0, 1].
        contrast: the contrast factor is uniform in [1 - contrast, 1 + contrast].
        saturation: the saturation factor is uniform in [1 - saturation, 1 + saturation].
        hue: largest rotation of the hue, in turns, at most 0.5.
        grayscale_prob: probability of a conversion to grey.
        blur_prob: probability of a Gaussian blur.
        blur_sigma: range of its standard deviation, in pixels.
        solarize_prob: probability of a solarization.
        solarize_threshold: values from here on are inverted, in [0, 1].

    Raises:
        UserError: if a value is out of range.
    """

    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip_prob: float = 0.5
    jitter_prob: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grayscale_prob: float = 0.2
    blur_prob: float = 1.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize_prob: float = 0.0
    solarize_threshold: float = 0.5

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, tuple):
                low, high = value = tuple(float(bound) for bound in value)
                object.__setattr__(self, field.name, value)
                limit = 1.0 if field.name == "crop_area" else float("inf")
                valid, allowed = 0 < low <= high <= limit, "(low, high) with 0 < low <= high"
                allowed += " <= 1" if limit == 1.0 else ""
            else:
                limit = 0.5 if field.name == "hue" else 1.0
                valid, allowed = 0 <= value <= limit, f"in [0, {limit}]"
            if not valid:
                raise errors.UserError(
                    f"the view's {field.name} must be {allowed}; got {value!r}."
                )


VIEW_1 = ViewConfig(blur_prob=1.0, solarize_prob=0.0)
VIEW_2 = ViewConfig(blur_prob=0.1, solarize_prob=0.2)


def random_crop_windows(
    height: tf.Tensor, width: tf.Tensor, seed: tf.Tensor, views: Sequence[ViewConfig]
) -> tf.Tensor:
    """Draws the window of one random resized crop for each of N views.

    Area and aspect are drawn once and the sides clamped to the image, where other implementations
    draw again until a window fits: DeepMind's byol, dataset.py:_decode_and_random_crop.

    Args:
        height, width: of the image in pixels, int32 scalars.
        seed: int [2].
        views: N; their crop_area and crop_aspect apply.

    Returns:
        int32 [N, 4], each (top, left, height, width), inside the image and at least one pixel.
    """
    draws = _uniform([4, len(views)], seed)
    min_area, max_area = np.float32([view.crop_area for view in views]).T
    area = (min_area + draws[0] * (max_area - min_area)) * tf.cast(height * width, tf.float32)
    min_log, max_log = np.log(np.float32([view.crop_aspect for view in views])).T
    aspect = tf.exp(min_log + draws[1] * (max_log - min_log))
    # Columns are (height, width).
    limits = tf.stack([height, width])
    sides = tf.sqrt(tf.stack([area / aspect, area * aspect], axis=1))
    sides = tf.clip_by_value(tf.cast(tf.round(sides), tf.int32), 1, limits)
    corners = _uniform_int(tf.transpose(draws[2:]), limits - sides)
    return tf.concat([corners, sides], axis=1)


def decode_and_random_crops(
    image_bytes: tf.Tensor, seed: tf.Tensor, image_size: int, views: Sequence[ViewConfig]
) -> list[tf.Tensor]:
    """Decodes one image file to N random resized crops, on the host.

    Of a JPEG only the smallest window that holds all crops is decoded, once; other formats are
    decoded whole. Formats, alpha and EXIF orientation are those of `preprocessing.decode_image`.

    Args:
        image_bytes: scalar string, the file's content.
        seed: int [2].
        image_size: side S of the crops, in pixels.
        views: N; their crop_area and crop_aspect apply.

    Returns:
        N times float32 [S, S, 3] in [0, 1].

    Raises:
        tf.errors.InvalidArgumentError: when run, if the bytes are no complete image.
    """
    return [
        preprocessing.to_unit_range(crop)
        for crop in _resized_crops(image_bytes, seed, image_size, views)
    ]


def decode_and_random_crop(
    image_bytes: tf.Tensor, seed: tf.Tensor, image_size: int, view: ViewConfig
) -> tf.Tensor:
    """`decode_and_random_crops` of a single view: float32 [S, S, 3] in [0, 1]."""
    return decode_and_random_crops(image_bytes, seed, image_size, [view])[0]


def _resized_crops(image_bytes, seed, image_size, views) -> list[tf.Tensor]:
    """N crops as the resize leaves them: float32 [S, S, 3] in about [0, 255], overshooting."""

    def from_jpeg() -> tuple[tf.Tensor, tf.Tensor]:
        height, width, _ = tf.unstack(tf.image.extract_jpeg_shape(image_bytes))
        windows = random_crop_windows(height, width, seed, views)
        start = tf.reduce_min(windows[:, :2], axis=0)
        end = tf.reduce_max(windows[:, :2] + windows[:, 2:], axis=0)
        union = tf.concat([start, end - start], axis=0)
        image = tf.image.decode_and_crop_jpeg(
            image_bytes, union, channels=3, dct_method=preprocessing.JPEG_DCT
        )
        return image, windows - tf.concat([start, [0, 0]], axis=0)

    def from_other() -> tuple[tf.Tensor, tf.Tensor]:
        image = preprocessing.decode_image(image_bytes)
        height, width, _ = tf.unstack(tf.shape(image))
        return image, random_crop_windows(height, width, seed, views)

    image, windows = tf.cond(tf.io.is_jpeg(image_bytes), from_jpeg, from_other)
    crops = []
    for top, left, height, width in (tf.unstack(windows[view]) for view in range(len(views))):
        crop = tf.slice(image, tf.stack([top, left, 0]), tf.stack([height, width, 3]))
        crops.append(preprocessing.resize_bicubic(crop, image_size))
    return crops


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
        tf.unstack(_uniform([11, tf.shape(planes)[0]], seed))
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
        (flip, view.flip_prob, image_ops.flip, ()),
        (jitter, view.jitter_prob, image_ops.color_jitter, jitters),
        (gray, view.grayscale_prob, image_ops.to_grayscale, ()),
        (blur, view.blur_prob, image_ops.gaussian_blur, (sigmas,)),
        (solarize, view.solarize_prob, image_ops.solarize, (view.solarize_threshold,)),
    ):
        if probability > 0:
            planes = image_ops.apply_where(draw < probability, operation, planes, *arguments)
    return tf.clip_by_value(planes, 0.0, 1.0)


def draw_orders(draws: tf.Tensor) -> tf.Tensor:
    """Maps draws in [0, 1), float [B], to equally likely orders of the colour jitter, int32 [B]."""
    return _uniform_int(draws, tf.constant(len(image_ops.ORDERS) - 1))


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
        crops = _resized_crops(image_bytes, crop_seed, image_size, (self.view_1, self.view_2))
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


def _uniform(shape: Sequence[int], seed: tf.Tensor) -> tf.Tensor:
    """Draws float32 of 24 bits, uniform in [0, 1).

    From the bits of a named generator: by default XLA and the CPU kernels may take different
    generators, and of the same bits they keep different ones for a float.
    """
    bits = tf.random.stateless_uniform(
        shape, seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
    )
    return tf.cast(tf.bitwise.right_shift(bits, 8), tf.float32) * 2.0**-24


def _uniform_int(draws: tf.Tensor, largest: tf.Tensor) -> tf.Tensor:
    """Maps draws in [0, 1) to integers in [0, largest], int32."""
    values = tf.cast(draws * tf.cast(largest + 1, tf.float32), tf.int32)
    return tf.minimum(values, largest)  # The product may round up to largest + 1.

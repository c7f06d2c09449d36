"""Preprocessing from image bytes to an encoder's input: decode, centre crop, resize, normalise.

Evaluation and serving both use `Preprocessing`, so an exported encoder sees what the evaluated one
saw. Everything is TensorFlow graph code: it works eagerly, in tf.data and inside a SavedModel.
"""

import dataclasses
import fractions
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.images import bands, orientation, pillow

# Statistics of RGB in [0, 1] on ImageNet's training set (DeepMind's byol,
# dataset.py:normalize_images).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_UNKNOWN = "Unknown image file format. One of JPEG, PNG, GIF, BMP required."

RESIZES = ("bicubic", "bilinear")
BIT_DEPTHS = (8, 16)

# TensorFlow's default is the fast transform, up to 14 levels off. The accurate one is as fast and
# equals Pillow's, so that a client that decodes by itself gets the same embedding.
JPEG_DCT = "INTEGER_ACCURATE"


def decode_image(image_bytes: tf.Tensor, channels: int = 3, bit_depth: int = 8) -> tf.Tensor:
    """Decodes one image file.

    Formats: JPEG (grey, colour and CMYK), PNG (grey, palette, RGBA, 16 bit), BMP (grey, 24 and 32
    bit) and GIF (first frame); of other numbers of bands than one and three, PNG, also as
    `bands.encode_png` writes it. A JPEG or PNG with an EXIF orientation comes upright, as photos
    are shown; the authors' code ignores it.

    To one channel or three, any photo is decoded: grey is repeated, colours become their luma
    (ITU-R BT.601), alpha is dropped, not blended. Other numbers have to be those of the file.

    Args:
        image_bytes: Content of the file, scalar string.
        channels: C.
        bit_depth: 8, of which a file of 16 bits gives the upper ones, or 16, to whose range 8 bits
            are scaled.

    Returns:
        uint8 or uint16 `[H, W, C]`; H and W are those of the upright image.

    Raises:
        tf.errors.InvalidArgumentError: The bytes are not a complete image in one of these formats,
            or one of another number of bands; raised when run.
    """
    image_bytes = tf.convert_to_tensor(image_bytes, tf.string)
    decode = _decode_photo if channels in (1, 3) else _decode_bands
    image = decode(image_bytes, channels, bit_depth)
    return tf.ensure_shape(orientation.apply_exif(image_bytes, image), [None, None, channels])


def pixel_type(bit_depth: int) -> tf.DType:
    """Returns the type of decoded images."""
    return tf.uint16 if bit_depth == 16 else tf.uint8


def in_depth(image: tf.Tensor, bit_depth: int) -> tf.Tensor:
    """Scales a decoded image of 8 bits to the range of `bit_depth`."""
    return tf.cast(image, tf.uint16) * 257 if bit_depth == 16 else image


def _decode_photo(image_bytes: tf.Tensor, channels: int, bit_depth: int) -> tf.Tensor:
    """Decodes to grey or RGB, whatever the file has."""
    start = tf.strings.substr(image_bytes, 0, 4)
    is_png = tf.equal(start, b"\x89PNG")

    def decode_jpeg() -> tf.Tensor:
        image = tf.io.decode_jpeg(image_bytes, channels=channels, dct_method=JPEG_DCT)
        return in_depth(image, bit_depth)

    def decode_bmp() -> tf.Tensor:
        # TensorFlow cannot decode a BMP of 1 or 4 channels to 3: broadcast the one, drop alpha.
        image = tf.io.decode_bmp(image_bytes)[..., :3]
        image = tf.broadcast_to(image, tf.concat([tf.shape(image)[:2], [3]], axis=0))
        image = tf.image.rgb_to_grayscale(image) if channels == 1 else image
        return in_depth(image, bit_depth)

    def decode_gif() -> tf.Tensor:
        image = tf.io.decode_image(image_bytes, channels=3, expand_animations=False)
        image = tf.ensure_shape(image, [None, None, 3])
        image = tf.image.rgb_to_grayscale(image) if channels == 1 else image
        return in_depth(image, bit_depth)

    def decode_png() -> tf.Tensor:
        return tf.io.decode_png(image_bytes, channels, pixel_type(bit_depth))

    def decode_other() -> tf.Tensor:
        # Not WebP and JPEG XL, which TensorFlow 2.21 decodes by any of its functions: what they
        # unpack to is not limited (`size_limit`), and other versions refuse them.
        known = tf.reduce_any(start == [b"\x89PNG", b"GIF8"])
        with tf.control_dependencies([tf.debugging.Assert(known, [_UNKNOWN])]):
            return tf.cond(
                bands.is_stacked(image_bytes),
                lambda: bands.refused(bands.count(image_bytes), channels, pixel_type(bit_depth)),
                decode_known,
            )

    def decode_known() -> tf.Tensor:
        if (channels, bit_depth) == (3, 8):
            return tf.io.decode_image(image_bytes, channels=3, expand_animations=False)
        return tf.cond(is_png, decode_png, decode_gif)

    is_bmp = tf.strings.substr(start, 0, 2) == b"BM"
    return tf.case(
        [(tf.io.is_jpeg(image_bytes), decode_jpeg), (is_bmp, decode_bmp)], default=decode_other
    )


def _decode_bands(image_bytes: tf.Tensor, channels: int, bit_depth: int) -> tf.Tensor:
    """Decodes a PNG that has so many bands; other files say how many theirs are."""
    start = tf.strings.substr(image_bytes, 0, 4)
    is_jpeg, dtype = tf.io.is_jpeg(image_bytes), pixel_type(bit_depth)

    def refuse() -> tf.Tensor:
        known = is_jpeg | (start == b"GIF8") | (tf.strings.substr(start, 0, 2) == b"BM")
        found = tf.cond(
            is_jpeg, lambda: tf.io.extract_jpeg_shape(image_bytes)[2], lambda: tf.constant(3)
        )
        with tf.control_dependencies([tf.debugging.Assert(known, [_UNKNOWN])]):
            return bands.refused(found, channels, dtype)

    return tf.cond(
        start == b"\x89PNG",
        lambda: bands.decode_png(image_bytes, channels, dtype),
        refuse,
    )


def resize_bicubic(images: tf.Tensor, image_size: int) -> tf.Tensor:
    """Resizes to a square, without antialiasing, as the authors' code does.

    Args:
        images: uint8 or uint16 `[H, W, C]` or `[B, H, W, C]`.
        image_size: Side S of the result, in pixels.

    Returns:
        float32 `[S, S, C]` or `[B, S, S, C]`; cubic interpolation overshoots the range of the
        input.
    """

    def resize(images: tf.Tensor) -> tf.Tensor:
        return tf.image.resize(images, [image_size, image_size], tf.image.ResizeMethod.BICUBIC)

    # Both give the same numbers. TensorFlow's kernel is faster on float, by more than the cast
    # costs for small images; for a 12-megapixel photo the float copy would cost time and 144 MB.
    return tf.cond(
        tf.size(images) < 2**20,
        lambda: resize(tf.cast(images, tf.float32)),
        lambda: resize(images),
    )


def to_unit_range(images: tf.Tensor, bit_depth: int = 8) -> tf.Tensor:
    """Maps float `[...]` in about [0, 255], or [0, 65535] of 16 bits, to [0, 1].

    It clips the overshoot of a resize.
    """
    return tf.clip_by_value(images * (1.0 / (2**bit_depth - 1)), 0.0, 1.0)


def normalize(
    images: tf.Tensor, mean: Sequence[float] | tf.Tensor, std: Sequence[float] | tf.Tensor
) -> tf.Tensor:
    """Returns (images - mean) / std for float `[..., C]` in [0, 1], per channel, as float32."""
    images = tf.cast(images, tf.float32)
    return (images - tf.cast(mean, tf.float32)) / tf.cast(std, tf.float32)


def check_normalization(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raises `UserError` unless both have a finite number for each channel, the stds positive."""
    if not mean or len(mean) != len(std):
        raise UserError(
            "mean and std must have one number for each channel of the images in [0, 1], three for "
            f"RGB; got {mean!r} and {std!r}."
        )
    for name, values in (("mean", mean), ("std", std)):
        if not all(math.isfinite(value) for value in values):
            raise UserError(f"{name} must be finite in every channel; got {values!r}.")
    if min(std) <= 0:
        raise UserError(f"std must be positive in every channel; got {std!r}.")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of a frozen encoder: centre crop and resize, normalisation.

    Attributes:
        image_size: Side S of the result, in pixels, at least 1.
        crop_fraction: Side of the central square that is kept, as a fraction in (0, 1] of the
            image's shorter side; 0.875 is 224 of 256, the paper's evaluation crop (appendix C.1).
        mean: Mean of each of the C channels, in [0, 1], which is subtracted.
        std: Standard deviation of each channel, of values in [0, 1], positive, which divides.
        resize: `bicubic` crops, then resizes without antialiasing, as the authors' code does;
            `bilinear` resizes the shorter side to S / crop_fraction with antialiasing, then crops,
            as torchvision does; of 8 bits only.
        bit_depth: Of decoded images: 8 is uint8, 16 is uint16.

    Raises:
        UserError: A value is out of range or unknown.
    """

    image_size: int
    crop_fraction: float = 0.875
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resize: str = "bicubic"
    bit_depth: int = 8

    def __post_init__(self):
        # Configs and JSON give lists, which are not equal to tuples and have no hash.
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        if int(self.image_size) != self.image_size or self.image_size < 1:
            raise UserError(
                f"image_size must be a whole number of pixels, at least 1; got {self.image_size!r}."
            )
        if not 0 < self.crop_fraction <= 1:
            raise UserError(
                "crop_fraction must be in (0, 1], the fraction of the shorter side that is kept; "
                f"got {self.crop_fraction!r}."
            )
        if self.resize not in RESIZES:
            raise UserError(f"resize '{self.resize}' is unknown; give one of {', '.join(RESIZES)}.")
        if self.bit_depth not in BIT_DEPTHS:
            raise UserError(f"bit_depth is {self.bit_depth!r}; give 8 or 16.")
        if self.resize == "bilinear" and self.bit_depth != 8:
            raise UserError(
                "resize 'bilinear' is Pillow's, of 8 bits; give 'bicubic' for images of 16."
            )
        check_normalization(self.mean, self.std)

    @property
    def channels(self) -> int:
        """C, the number of channels."""
        return len(self.mean)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a preprocessed image, `[S, S, C]`."""
        return self.image_size, self.image_size, self.channels

    @property
    def pixel_type(self) -> tf.DType:
        """The type of decoded images, uint8 or uint16."""
        return pixel_type(self.bit_depth)

    def decode(self, image_bytes: tf.Tensor) -> tf.Tensor:
        """Decodes a file, scalar string, to what a call takes: uint8 or uint16 `[H, W, C]`."""
        return decode_image(image_bytes, self.channels, self.bit_depth)

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Preprocesses decoded images.

        Args:
            images: uint8, or uint16 of 16 bits, `[H, W, C]` or `[B, H, W, C]`; B, H and W may be
                unknown until run.

        Returns:
            float32 `[S, S, C]` or `[B, S, S, C]`, normalised.
        """
        images = tf.convert_to_tensor(images, self.pixel_type)
        if self.resize == "bilinear":
            resized = self.crop_resized(images)
        else:
            resized = resize_bicubic(self._center_crop(images), self.image_size)
        return self.normalize(to_unit_range(resized, self.bit_depth))

    def from_bytes(self, image_bytes: tf.Tensor) -> tf.Tensor:
        """Decodes and preprocesses files: string `[B]` -> float32 `[B, S, S, C]`, normalised."""
        return tf.map_fn(
            lambda content: self(self.decode(content)),
            tf.convert_to_tensor(image_bytes, tf.string),
            fn_output_signature=tf.TensorSpec(self.shape, tf.float32),
        )

    def normalize(self, images: tf.Tensor) -> tf.Tensor:
        """Returns (images - mean) / std for float `[..., C]` in [0, 1], as float32."""
        return normalize(images, self.mean, self.std)

    def unnormalized(self) -> "Preprocessing":
        """Returns this preprocessing without the normalisation, to values in [0, 1]."""
        zeros: Any = (0.0,) * len(self.mean)
        ones: Any = (1.0,) * len(self.std)
        return dataclasses.replace(self, mean=zeros, std=ones)

    def crop_box(self, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns top, left and side of the centre crop of `[..., H, W, C]`, scalars int32."""
        shape = tf.shape(images)
        height, width = shape[-3], shape[-2]
        shorter = tf.minimum(height, width)
        # Truncated, as in the authors' code (dataset.py:_decode_and_center_crop).
        side = tf.maximum(_truncated_product(self.crop_fraction, shorter), 1)
        # An odd remainder puts the extra pixel above and to the left, as in the authors' code.
        return (height - side + 1) // 2, (width - side + 1) // 2, side

    def _center_crop(self, images: tf.Tensor) -> tf.Tensor:
        top, left, side = self.crop_box(images)
        return images[..., top : top + side, left : left + side, :]

    def crop_resized(
        self, images: tf.Tensor, weighted_sums: pillow.WeightedSums | None = None
    ) -> tf.Tensor:
        """Returns the centre crop after the bilinear resize: uint8 or int32 -> float32."""
        size = self.image_size
        shorter = round(size / self.crop_fraction)
        resized = pillow.resize_shorter_side(images, shorter, weighted_sums)
        shape = tf.shape(resized)
        # Rounded to even, as in torchvision's center_crop.
        margins = (tf.cast(shape[axis] - size, tf.float32) for axis in (-3, -2))
        top, left = (tf.cast(tf.round(margin / 2), tf.int32) for margin in margins)
        crop = resized[..., top : top + size, left : left + size, :]
        return tf.ensure_shape(crop, [*images.shape[:-3], *self.shape])


def _truncated_product(fraction: float, length: tf.Tensor) -> tf.Tensor:
    """Returns int(fraction · length) in float64, without float64 where integers give the same.

    Runtimes that exports are converted for, such as TensorRT, have no float64.
    """
    ratio = fractions.Fraction(fraction).limit_denominator(1000)
    lengths = np.arange(2**14)
    equal = (fraction * lengths).astype(int) == lengths * ratio.numerator // ratio.denominator
    if equal.all():
        return length * ratio.numerator // ratio.denominator
    return tf.cast(fraction * tf.cast(length, tf.float64), tf.int32)

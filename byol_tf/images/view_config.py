"""The numbers of the view distributions: T and T' (paper table 6), and that of small crops."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from byol_tf.errors import UserError


@dataclasses.dataclass(frozen=True)
class ViewConfig:
    """The numbers of one view distribution; the defaults are those of T (paper table 6).

    Attributes:
        crop_area: Range of the crop's area, as a fraction of the image's, in (0, 1].
        crop_aspect: Range of the crop's width / height, drawn log-uniformly.
        flip_prob: Probability of a left-right flip.
        jitter_prob: Probability of the colour jitter as a whole.
        brightness: Largest value added or subtracted, for RGB in [0, 1].
        contrast: Half width of the factor's range, [1 - contrast, 1 + contrast], drawn uniformly.
        saturation: Half width of the factor's range, like `contrast`.
        hue: Largest rotation of the hue, in turns, at most 0.5.
        grayscale_prob: Probability of a conversion to grey.
        blur_prob: Probability of a Gaussian blur.
        blur_sigma: Range of the blur's standard deviation, in pixels.
        solarize_prob: Probability of a solarization.
        solarize_threshold: Smallest value that solarization inverts, in [0, 1].

    Raises:
        UserError: A value is out of range.
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
                raise UserError(f"the view's {field.name} must be {allowed}; got {value!r}.")

    def color_operations(self) -> list[str]:
        """Returns the fields of operations that only RGB has and that are not switched off."""
        return [name for name in COLOR_FIELDS if getattr(self, name) > 0]


# What needs RGB; of images with other channels, they are 0.
COLOR_FIELDS = ("saturation", "hue", "grayscale_prob")

VIEW_1 = ViewConfig(blur_prob=1.0, solarize_prob=0.0)
VIEW_2 = ViewConfig(blur_prob=0.1, solarize_prob=0.2)
VIEW_SMALL = ViewConfig(crop_area=(0.05, 0.4), blur_prob=0.5)  # DINO's (arXiv 2104.14294).


@dataclasses.dataclass(frozen=True)
class SmallCrops:
    """The small crops of an image that multi-crop adds to its two views (arXiv 2006.09882).

    Attributes:
        count: Number N of them, at least 1.
        size: Side, in pixels.
        view: Their distribution, a `ViewConfig` or a dict of its fields.

    Raises:
        UserError: A value is out of range.
    """

    count: int
    size: int
    view: ViewConfig = VIEW_SMALL

    def __post_init__(self):
        if not isinstance(self.view, ViewConfig):
            object.__setattr__(self, "view", ViewConfig(**self.view))
        if self.count < 1:
            raise UserError(f"augment.small_crops is {self.count}; give 0 or more.")
        if self.size < 1:
            raise UserError(f"augment.small_crop_size is {self.size}; give 1 pixel or more.")

    @classmethod
    def from_config(cls, augment: Mapping[str, Any]) -> "SmallCrops | None":
        """Returns those of a config's `augment`; None if it has none, as before there were any."""
        if not augment.get("small_crops"):
            return None
        return cls(augment["small_crops"], augment["small_crop_size"], augment["view_small"])

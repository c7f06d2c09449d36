"""The operations of a view: (planes, ...) -> planes, float32 `[B, C, S, S]` in [0, 1].

Channels come first because the colour operations combine whole channels: as planes, each is
contiguous in memory, which vector units need. Arguments are one number per image, float32 `[B]`,
unless stated otherwise. The variants are those of DeepMind's byol (utils/augmentations.py):
brightness is added, contrast is about each channel's mean over the image, saturation and hue act in
HSV, and each operation clips its result to [0, 1]. `adjust_hsv` and `to_grayscale` need RGB; the
others treat each channel alike.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)


def apply_where(
    chosen: tf.Tensor, operation: Callable[..., tf.Tensor], planes: tf.Tensor, *arguments: Any
) -> tf.Tensor:
    """Applies `operation` to the images that are `chosen`, bool `[B]`, and returns all planes.

    A single image takes a branch, which saves the work. A batch computes both and selects: a branch
    would make an accelerator wait for the host.
    """
    if planes.shape[0] == 1:
        return tf.cond(chosen[0], lambda: operation(planes, *arguments), lambda: planes)
    return tf.where(_per_image(chosen), operation(planes, *arguments), planes)


def flip(planes: tf.Tensor) -> tf.Tensor:
    """Mirrors left and right."""
    return tf.reverse(planes, [3])


def adjust_linear(planes: tf.Tensor, brightness: tf.Tensor, contrast: tf.Tensor) -> tf.Tensor:
    """Scales by `contrast` about each channel's mean, adds `brightness`; 1 and 0 change nothing."""
    contrast = _per_image(contrast)
    mean = tf.reduce_mean(planes, axis=[2, 3], keepdims=True)
    return _clip(planes * contrast + (mean * (1.0 - contrast) + _per_image(brightness)))


def adjust_hsv(planes: tf.Tensor, saturation: tf.Tensor, hue: tf.Tensor) -> tf.Tensor:
    """Scales the saturation of HSV, at most to 1, and adds to the hue.

    Args:
        planes: Images, float32 `[B, 3, S, S]` in [0, 1].
        saturation: Factor of the saturation; 1 changes nothing.
        hue: Rotation of the hue, in turns, within [-0.5, 0.5]; 0 changes nothing.

    Returns:
        float32 `[B, 3, S, S]` in [0, 1].
    """
    red, green, blue = tf.unstack(planes, axis=1)
    value = tf.maximum(tf.maximum(red, green), blue)
    chroma = value - tf.minimum(tf.minimum(red, green), blue)
    # A grey pixel has no hue: its chroma is 0, so any finite hue will do.
    per_chroma = 1.0 / tf.maximum(chroma, 1e-12)
    sextant = tf.where(
        red == value,
        (green - blue) * per_chroma,
        tf.where(green == value, 2.0 + (blue - red) * per_chroma, 4.0 + (red - green) * per_chroma),
    )
    sextant += 6.0 * hue[:, tf.newaxis, tf.newaxis]
    # At a given hue and value, RGB moves on the line to grey: saturation 1 is chroma = value.
    chroma = tf.minimum(chroma * saturation[:, tf.newaxis, tf.newaxis], value)
    # R, G, B = value - chroma * clip(min(k, 4 - k), 0, 1), k = (n + sextant) mod 6, n = 5, 3, 1.
    k = tf.reshape([5.0, 3.0, 1.0], [3, 1, 1]) + sextant[:, tf.newaxis]  # [B, 3, S, S]
    k -= 6.0 * tf.floor(k * (1.0 / 6.0))
    distance = tf.clip_by_value(tf.minimum(k, 4.0 - k), 0.0, 1.0)
    return _clip(value[:, tf.newaxis] - chroma[:, tf.newaxis] * distance)


# Every one of the 24 orders of the four colour operations fits into these slots: L for
# adjust_linear, one of brightness and contrast, since values are clipped in between; H for
# adjust_hsv, saturation or hue or both, which commute. So a batch of mixed orders takes 6 passes
# instead of 16.
_SLOTS = "LHLLHL"
ORDERS = tuple(itertools.permutations((_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE)))


def _schedule(order: Sequence[int]) -> list[list[bool]]:
    """Assigns operations to the earliest slots that keep their order: [slots][operations]."""
    schedule = [[False] * 4 for _ in _SLOTS]
    slot = -1
    for operation in order:
        if operation in (_SATURATION, _HUE):
            slot = _SLOTS.index("H", max(slot, 0))
        else:
            slot = _SLOTS.index("L", slot + 1)
        schedule[slot][operation] = True
    return schedule


_SCHEDULES = [_schedule(order) for order in ORDERS]


def color_jitter(
    planes: tf.Tensor,
    order: tf.Tensor,
    brightness: tf.Tensor,
    contrast: tf.Tensor,
    saturation: tf.Tensor,
    hue: tf.Tensor,
) -> tf.Tensor:
    """Changes brightness, contrast, saturation and hue, each image in its own order.

    Args:
        planes: Images, float32 `[B, C, S, S]` in [0, 1].
        order: Index into `ORDERS`, int32 `[B]`.
        brightness, contrast: Arguments of `adjust_linear`.
        saturation, hue: Arguments of `adjust_hsv`, which is left out unless the images are RGB.

    Returns:
        float32 `[B, 3, S, S]` in [0, 1].
    """
    schedule = tf.gather(tf.constant(_SCHEDULES), order)  # [B, slots, operations]
    for slot, kind in enumerate(_SLOTS):
        if kind == "H" and planes.shape[1] != 3:
            continue
        runs = tf.unstack(schedule[:, slot], axis=1)
        if kind == "L":
            planes = apply_where(
                runs[_BRIGHTNESS] | runs[_CONTRAST],
                adjust_linear,
                planes,
                tf.where(runs[_BRIGHTNESS], brightness, 0.0),
                tf.where(runs[_CONTRAST], contrast, 1.0),
            )
        else:
            planes = apply_where(
                runs[_SATURATION] | runs[_HUE],
                adjust_hsv,
                planes,
                tf.where(runs[_SATURATION], saturation, 1.0),
                tf.where(runs[_HUE], hue, 0.0),
            )
    return planes


def to_grayscale(planes: tf.Tensor) -> tf.Tensor:
    """Replaces R, G and B by the luma of ITU-R BT.601."""
    red, green, blue = tf.unstack(planes, axis=1)
    gray = 0.2989 * red + 0.5870 * green + 0.1140 * blue
    return tf.stack([gray] * 3, axis=1)


def gaussian_blur(planes: tf.Tensor, sigma: tf.Tensor) -> tf.Tensor:
    """Blurs with a Gaussian of standard deviation `sigma`, in pixels.

    The kernel is about a tenth of the image wide: 2r + 1 taps, r = S // 20. Pixels outside the
    image count as 0, which darkens the border, as in the authors' code (their convolution pads with
    SAME).
    """
    size = planes.shape[2]
    radius = size // 20
    taps = tf.range(radius + 1, dtype=tf.float32)
    kernel = tf.exp(-tf.square(taps) / (2.0 * tf.square(sigma[:, tf.newaxis])))  # [B, r + 1]
    kernel /= 2.0 * tf.reduce_sum(kernel, axis=1, keepdims=True) - 1.0
    # Sums of shifted images: convolution kernels are slow for one channel and one kernel per image.
    for axis in (2, 3):
        padding = [[0, 0]] * 4
        padding[axis] = [radius, radius]
        padded = tf.pad(planes, padding)

        shifted = [
            padded[:, :, start : start + size] if axis == 2 else padded[..., start : start + size]
            for start in range(2 * radius + 1)
        ]
        planes = _per_image(kernel[:, 0]) * shifted[radius]
        for tap in range(1, radius + 1):
            both = shifted[radius - tap] + shifted[radius + tap]
            planes += _per_image(kernel[:, tap]) * both
    return planes


def solarize(planes: tf.Tensor, threshold: float) -> tf.Tensor:
    """Inverts values at or above the threshold, which is the same for all images."""
    return tf.where(planes < threshold, planes, 1.0 - planes)


def _per_image(values: tf.Tensor) -> tf.Tensor:
    """Reshapes `[B]` to `[B, 1, 1, 1]`, to broadcast over an image."""
    return values[:, tf.newaxis, tf.newaxis, tf.newaxis]


def _clip(planes: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(planes, 0.0, 1.0)

"""The mean and standard deviation of each channel, for a config that asks to measure them."""

import ml_collections
import numpy as np
from absl import logging

from byol_tf import data
from byol_tf.errors import UserError
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.sources import Source

# Enough that the mean is good to 1 % of the standard deviation of the images' means and better.
_IMAGES = 2_000
_DIGITS = 6
_BATCH_SIZE = 32
# Views add up to 0.4 to values and invert those above 0.5: made for values that fill [0, 1].
_SMALL_RANGE = 0.05


def resolve(config: ml_collections.ConfigDict, source: Source) -> None:
    """Sets `config.normalize` to what is measured on the images, if it is `()`.

    Raises:
        UserError: No image is read, or a channel has the same value everywhere.
    """
    if len(config.normalize.mean):
        return
    mean, std, count = measure(source, config.channels, config.bit_depth, config.image_size)
    logging.info(
        "%s: the normalisation, measured on %d images: mean %s, std %s",
        source.name,
        count,
        mean,
        std,
    )
    if max(std) < _SMALL_RANGE:
        logging.warning(
            "%s: the values fill a small part of the range of %d bits (std up to %g of it), for "
            "which the views' brightness and solarization are far too strong; scale the files, or "
            "lower config.augment.",
            source.name,
            config.bit_depth,
            max(std),
        )
    config.normalize.mean, config.normalize.std = mean, std


def measure(
    source: Source, channels: int, bit_depth: int, image_size: int
) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """Measures each channel over the largest central squares, resized and in [0, 1].

    They are what an encoder sees before the normalisation, and each image counts alike. At most
    2,000 are taken, evenly spaced, so that nothing is drawn.

    Args:
        source: Images.
        channels, bit_depth: What they are decoded to.
        image_size: Side of the resized squares, in pixels.

    Returns:
        The mean and standard deviation of each channel, to six digits, and the number of images.

    Raises:
        UserError: No image is read, or a channel has the same value everywhere.
    """
    plain = Preprocessing(
        image_size, 1.0, (0.0,) * channels, (1.0,) * channels, bit_depth=bit_depth
    )
    count, mean, squares = 0, np.zeros(channels), np.zeros(channels)
    for images, _, _ in data.evaluation_dataset(
        source, plain, _BATCH_SIZE, limit=_IMAGES
    ).as_numpy_iterator():
        batch = images.astype(np.float64)
        batch_mean = batch.mean(axis=(0, 1, 2))
        # Chan's update of the sum of squared differences: nothing cancels.
        total, difference = count + len(batch), batch_mean - mean
        squares += ((batch - batch_mean) ** 2).mean(axis=(1, 2)).sum(axis=0)
        squares += difference**2 * count * len(batch) / total
        mean += difference * len(batch) / total
        count = total
    if not count:
        raise source.corrupt.none_left()
    std = np.sqrt(squares / count)
    if not std.min() > 0:
        raise UserError(
            f"channel {int(std.argmin())} (from 0) of the images in '{source.name}' has one value "
            "everywhere, so it cannot be normalised; give files without it, or numbers as "
            "config.normalize.mean and std."
        )
    return _rounded(mean), _rounded(std), count


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values)

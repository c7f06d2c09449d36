"""PNG files of any number of channels, read back by Pillow and by the decoder of the export."""

import io

import numpy as np
import pytest
from PIL import Image

from byol_tf.images.preprocessing import decode_image
from serving import png


def image(channels, dtype):
    random = np.random.default_rng(channels)
    return random.integers(0, np.iinfo(dtype).max, (5, 7, channels), dtype, endpoint=True)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 13])
def test_the_exports_decoder_reads_the_same_pixels(channels, dtype):
    pixels = image(channels, dtype)
    depth = 8 * pixels.itemsize
    np.testing.assert_array_equal(decode_image(png.encode(pixels), channels, depth), pixels)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_pillow_reads_the_same_pixels(channels, mode):
    pixels = image(channels, "uint8")
    opened = Image.open(io.BytesIO(png.encode(pixels)))
    assert opened.mode == mode
    np.testing.assert_array_equal(np.asarray(opened).reshape(pixels.shape), pixels)


def test_viewers_see_the_bands_one_below_another():
    pixels = image(5, "uint16")
    content = png.encode(pixels)
    opened = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(opened, np.concatenate(np.moveaxis(pixels, 2, 0)))
    assert png.bands(content) == 5
    assert png.bands(png.encode(image(3, "uint8"))) == 0
    assert png.bands(b"\x89PNG") == 0 and png.bands(content[:40]) == 0

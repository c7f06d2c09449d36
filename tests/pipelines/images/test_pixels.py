import io

import numpy as np
import pytest
from pictures import FORMATS, encoded, photo
from PIL import Image

from byol_tf.images.file_formats import convert, is_for_pillow
from pipelines.images.pixels import kind_of


def kind(content):
    converted = convert(content, "PNG") if is_for_pillow(content) else content
    return kind_of(content, converted)


@pytest.mark.parametrize("name", FORMATS)
def test_photos_say_their_channels(name):
    mode, image_format, options = FORMATS[name]
    content = encoded(Image.fromarray(photo(8, 9)).convert(mode), image_format, **options)
    expected = {"L": "1 channel", "P": "3 channels", "RGB": "3 channels", "RGBA": "4 channels"}
    assert kind(content) == f"{expected[mode]}, 8 bit"


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_grey_says_its_bits(image_format):
    grey = photo(8, 9)[..., 0]
    assert kind(encoded(Image.fromarray(grey), image_format)) == "1 channel, 8 bit"
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert kind(encoded(deep, image_format)) == "1 channel, 16 bit"
    assert kind(encoded(Image.fromarray(grey).convert("1"), image_format)) == "1 channel, 8 bit"


def test_what_is_converted_says_what_it_was_before():
    image = Image.fromarray(photo(8, 9))
    for mode, channels in (("RGB", 3), ("RGBA", 4)):
        for image_format in ("WEBP", "TIFF"):
            content = encoded(image.convert(mode), image_format, lossless=True)
            assert kind(content) == f"{channels} channels, 8 bit"
    assert kind(encoded(image.convert("CMYK"), "JPEG")) == "4 channels, 8 bit"


@pytest.mark.parametrize("pages", [False, True])
def test_bands_of_a_tiff_count_as_samples_and_as_pages(pages):
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    file = io.BytesIO()
    bands = np.zeros([5, 8, 9], np.uint16)
    if pages:
        tifffile.imwrite(file, bands, photometric="minisblack")
    else:
        bands = np.moveaxis(bands, 0, -1)
        tifffile.imwrite(file, bands, photometric="minisblack", planarconfig="contig")
    converted = convert(file.getvalue(), "PNG", 5, 16)
    assert kind_of(file.getvalue(), converted) == "5 channels, 16 bit"

import io

import numpy as np
import pytest
from pictures import FORMATS, encoded, photo
from PIL import Image

from byol_tf.images.file_formats import convert, is_for_pillow
from pipelines.images.pixels import kind_of


def kind(content):
    return kind_of(convert(content, "PNG") if is_for_pillow(content) else content)


@pytest.mark.parametrize("name", FORMATS)
def test_photos_say_their_channels(name):
    mode, image_format, options = FORMATS[name]
    content = encoded(Image.fromarray(photo(8, 9)).convert(mode), image_format, **options)
    with Image.open(io.BytesIO(content)) as opened:  # Pillow writes a BMP of RGBA as one of RGB.
        channels = {"L": "1 channel", "RGBA": "4 channels"}.get(opened.mode, "3 channels")
    assert kind(content) == f"{channels}, 8 bit"


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
            colored = image.convert(mode)
            if mode == "RGBA":
                colored.putalpha(7)  # WebP leaves out an alpha that is opaque everywhere.
            content = encoded(colored, image_format, lossless=True)
            assert kind(content) == f"{channels} channels, 8 bit"
    assert kind(encoded(image.convert("CMYK"), "JPEG")) == "4 channels, 8 bit"


def test_bands_of_a_tiff_are_counted():
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    file = io.BytesIO()
    pixels = np.zeros([8, 9, 5], np.uint16)
    tifffile.imwrite(file, pixels, photometric="minisblack", planarconfig="contig")
    assert kind(file.getvalue()) == "5 channels, 16 bit"

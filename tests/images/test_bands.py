"""Images of other channels and depths against the arrays that their files were made of."""

import contextlib
import io
import struct
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
import tensorflow as tf
from pictures import encoded, photo
from PIL import Image

from byol_tf.images import bands, file_formats, tiff
from byol_tf.images.preprocessing import decode_image
from byol_tf.images.size_limit import bounded

RANDOM = np.random.default_rng(0)


def drawn(channels, dtype, height=12, width=9):
    return RANDOM.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True)


def tiff_file(pages, **options):
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    file = io.BytesIO()
    tifffile.imwrite(file, pages, **options)
    return file.getvalue()


def read(file, channels, bit_depth):
    """Returns what training makes of a file."""
    check = bounded(file_formats.decodable(tf.constant(file))[tf.newaxis])
    return decode_image(check[0], channels, bit_depth).numpy()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 13, 64])
def test_a_png_of_any_number_of_bands_is_read_without_loss(channels, dtype):
    images = np.stack([drawn(channels, dtype) for _ in range(3)])
    depth = 8 * images.itemsize
    files = tf.function(bands.encode_png)(images).numpy()
    decode = tf.function(decode_image)
    for image, file in zip(images, files, strict=True):
        np.testing.assert_array_equal(decode(file, channels, depth), image)
        with Image.open(io.BytesIO(file)) as opened:  # Viewers show it, whatever the chunk.
            opened.load()
            assert opened.height == 12 * (channels if channels > 4 else 1)


def test_the_depth_of_a_file_is_converted():
    deep = drawn(5, np.uint16)
    np.testing.assert_array_equal(decode_image(bands.encode_png(deep), 5, 8), deep >> 8)
    flat = drawn(5, np.uint8)
    wide = decode_image(bands.encode_png(flat), 5, 16)
    np.testing.assert_array_equal(wide, flat.astype(np.uint16) * 257)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "GIF"])
def test_photos_become_grey_by_their_luma_and_16_bits_by_scaling(file_format):
    image = Image.fromarray(photo(20, 30))
    image = image.quantize(250) if file_format == "GIF" else image
    file = encoded(image, file_format)
    with Image.open(io.BytesIO(file)) as opened:
        luma = np.asarray(opened.convert("RGB")) @ [0.299, 0.587, 0.114]
    gray = decode_image(file, 1)
    assert gray.dtype == tf.uint8
    # JPEG stores the luma itself, and colours are clipped on the way back from it; PNG truncates.
    assert np.abs(gray.numpy()[..., 0] - luma).max() <= (5 if file_format == "JPEG" else 1.1)
    for channels in (1, 3):
        wide, narrow = decode_image(file, channels, 16), decode_image(file, channels)
        np.testing.assert_array_equal(wide, narrow.numpy().astype(np.uint16) * 257)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "GIF"])
def test_a_grey_photo_keeps_its_values(file_format):
    pixels = photo(20, 30)[..., 0]
    found = decode_image(encoded(Image.fromarray(pixels), file_format), 1)
    assert np.abs(found.numpy()[..., 0].astype(int) - pixels).max() <= (
        40 if file_format == "JPEG" else 0
    )


def test_an_x_ray_of_16_bits_keeps_them():
    pixels = drawn(1, np.uint16)
    for file_format in ("PNG", "TIFF"):
        file = encoded(Image.fromarray(pixels[..., 0]), file_format)
        np.testing.assert_array_equal(read(file, 1, 16), pixels)
        np.testing.assert_array_equal(read(file, 3, 16), np.repeat(pixels, 3, axis=2))
        np.testing.assert_array_equal(read(file, 1, 8), pixels >> 8)


def test_alpha_is_kept_where_it_is_a_channel():
    pixels = drawn(4, np.uint8)
    for options in ({"image_format": "PNG"}, {"image_format": "WEBP", "lossless": True}):
        if options["image_format"] == "WEBP":
            pixels[..., 3] = 255 - pixels[..., 3] // 2  # WebP drops the colours of clear pixels.
            options["exact"] = True
        file = encoded(Image.fromarray(pixels), **options)
        np.testing.assert_array_equal(read(file, 4, 8), pixels)
        np.testing.assert_array_equal(read(file, 3, 8), pixels[..., :3])


@pytest.mark.parametrize(
    "options",
    [
        {"planarconfig": "contig"},
        {"planarconfig": "separate"},
        {"compression": "lzw", "predictor": True, "planarconfig": "contig"},
        {"compression": "zlib", "tile": (16, 16), "planarconfig": "separate"},
    ],
    ids=["pixels", "planes", "lzw", "tiles"],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 4, 5])
def test_a_tiff_of_several_bands_is_read_without_loss(channels, dtype, options):
    image = drawn(channels, dtype, 40, 30)
    stored = image if options["planarconfig"] == "contig" else np.moveaxis(image, 2, 0)
    file = tiff_file(stored, photometric="minisblack", **options)
    np.testing.assert_array_equal(read(file, channels, 8 * image.itemsize), image)
    converted = file_formats.convert(file, "PNG")
    wide = image if dtype == np.uint16 else image.astype(np.uint16) * 257
    np.testing.assert_array_equal(decode_image(converted, channels, 16), wide)


def test_a_tiff_of_16_bits_per_colour_keeps_them():
    image = drawn(3, np.uint16)
    file = tiff_file(image, photometric="rgb")
    np.testing.assert_array_equal(read(file, 3, 16), image)
    with_alpha = tiff_file(drawn(4, np.uint16), photometric="rgb", extrasamples=["unassalpha"])
    assert read(with_alpha, 3, 16).shape == (12, 9, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_stored_sideways_is_turned_as_pillow_turns_it(orientation):
    gray = photo(20, 30)[..., 0]
    exif = Image.Exif()
    exif[0x0112] = orientation
    by_pillow = read(encoded(Image.fromarray(gray), "TIFF", exif=exif), 1, 8)
    five = np.repeat(gray[np.newaxis], 5, axis=0)
    options = {"planarconfig": "separate", "extratags": [(274, 3, 1, orientation, True)]}
    ours = read(tiff_file(five, photometric="minisblack", **options), 5, 8)
    np.testing.assert_array_equal(ours[..., 2:3], by_pillow)


def reason(file, channels, bit_depth=8):
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        read(file, channels, bit_depth)
    return str(raised.value)


def test_another_number_of_bands_is_named():
    five = bands.encode_png(drawn(5, np.uint8)).numpy()
    gray, color, alpha = (
        encoded(Image.fromarray(pixels), "PNG")
        for pixels in (photo(9, 9)[..., 0], photo(9, 9), drawn(4, np.uint8))
    )
    jpeg = encoded(Image.fromarray(photo(9, 9)), "JPEG")
    for file, channels, found in (
        (five, 13, "5 bands"),
        (five, 3, "5 bands"),
        (five, 1, "5 bands"),
        (gray, 5, "1 band"),
        (color, 4, "3 bands"),
        (jpeg, 4, "3 bands"),
        (encoded(Image.fromarray(photo(9, 9)), "GIF"), 7, "3 bands"),
        (encoded(Image.fromarray(photo(9, 9)), "BMP"), 7, "3 bands"),
        (alpha, 13, "4 bands"),
    ):
        sentence = f"it has {found}, not the {channels} of config.channels"
        assert sentence in reason(file, channels)
    assert "Unknown image file format" in reason(b"not an image", 5)
    assert "Unknown image file format" in reason(b"", 5)


def test_another_number_of_bands_of_a_tiff_is_named():
    for planar in ("contig", "separate"):
        image = drawn(5, np.uint16) if planar == "contig" else drawn(9, np.uint16, 5, 12)
        file = tiff_file(image, photometric="minisblack", planarconfig=planar)
        for channels in (1, 3, 4, 13):
            sentence = f"it has 5 bands, not the {channels} of config.channels"
            assert sentence in reason(file, channels)


def test_a_stack_that_claims_what_it_does_not_have_is_refused():
    file = bands.encode_png(drawn(5, np.uint8)).numpy()
    for number in (7, 2**16 - 1, 2**32 - 1):
        claim = file.replace(bands.chunk(5), bands.chunk(number))
        assert claim != file
        assert reason(claim, 5)


def test_a_tiff_bomb_is_refused_before_it_is_unpacked():
    options = {"photometric": "minisblack", "planarconfig": "separate", "compression": "zlib"}
    small = tiff_file(np.zeros((5, 32, 32), np.uint8), tile=(16, 16), **options)
    import tifffile

    def patched(tag, value):
        with tifffile.TiffFile(io.BytesIO(small)) as file:
            entry = file.pages.first.tags[tag]
        start = entry.valueoffset
        return (
            small[:start]
            + value.to_bytes(entry.valuebytecount, "little")
            + small[start:][entry.valuebytecount :]
        )

    assert "bytes of pixels that are read" in reason(patched("ImageWidth", 2**27), 5)
    assert "tiles are much larger" in reason(patched("TileWidth", 2**31), 5)
    # What a tile unpacks to is no more than its claimed size: 10 MB of zeros in one of 256 bytes.
    bomb = zlib.compress(bytes(10_000_000))
    with tifffile.TiffFile(io.BytesIO(small)) as file:
        tags = file.pages.first.tags
        offsets, counts = (tags[name].valueoffset for name in ("TileOffsets", "TileByteCounts"))
    grown = bytearray(small + bomb)
    struct.pack_into("<I", grown, offsets, len(small))
    struct.pack_into("<I", grown, counts, len(bomb))
    tracemalloc.start()
    with contextlib.suppress(ValueError):
        tiff.read(bytes(grown))
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_noise_in_a_tiff_gives_a_reason():
    file = tiff_file(drawn(5, np.uint16, 40, 30), photometric="minisblack", compression="zlib")
    rng = np.random.default_rng(1)
    for _ in range(200):
        broken = bytearray(file)
        for position in rng.integers(4, len(file), 4):
            broken[position] = rng.integers(256)
        try:
            image = tiff.read(bytes(broken))
        except ValueError:
            continue
        assert image.ndim == 3


def test_a_missing_package_is_named(monkeypatch):
    file = tiff_file(drawn(5, np.uint16), photometric="minisblack", planarconfig="contig")
    for package in ("tifffile", "imagecodecs"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            assert "pip install 'byol_tf[tiff]'" in reason(file, 5)

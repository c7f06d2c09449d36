"""Transform's bound on the shorter side, against Pillow."""

import io

import numpy as np
import pytest
import tensorflow as tf
from pictures import FORMATS, encoded, photo
from PIL import Image, ImageOps

from byol_tf.errors import UserError
from byol_tf.images import bands
from byol_tf.images.preprocessing import decode_image
from pipelines.modules.preprocessing import bound_shorter_side


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("height, width", [(16, 40), (9, 9), (1, 300), (300, 1)])
def test_a_file_within_the_bound_keeps_its_bytes(name, height, width):
    mode, image_format, options = FORMATS[name]
    content = encoded(Image.fromarray(photo(height, width)).convert(mode), image_format, **options)
    assert bound_shorter_side(content, 16).numpy() == content


@pytest.mark.parametrize("name", [*FORMATS, "cmyk jpeg"])
@pytest.mark.parametrize("height, width, size", [(61, 90, (24, 35)), (90, 61, (35, 24))])
def test_a_larger_file_is_shrunk_as_pillow_shrinks_it(name, height, width, size):
    mode, image_format, options = FORMATS.get(name, ("CMYK", "JPEG", {"quality": 95}))
    image = Image.fromarray(photo(height, width)).convert(mode)
    content = encoded(image, image_format, **options)
    result = Image.open(io.BytesIO(bound_shorter_side(content, 24, 100).numpy()))
    assert (result.format, result.mode, result.size) == ("JPEG", "RGB", size[::-1])
    # Pillow and TensorFlow convert the colours of a CMYK JPEG differently.
    decoded = Image.fromarray(decode_image(content).numpy())
    reference = decoded.resize(result.size, Image.Resampling.BICUBIC)
    difference = np.abs(np.asarray(result).astype(int) - np.asarray(reference).astype(int))
    assert difference.mean() < 1 and difference.max() <= 5


@pytest.mark.parametrize(
    "channels, dtype", [(1, "uint16"), (3, "uint16"), (5, "uint8"), (5, "uint16")]
)
def test_all_channels_and_bits_of_a_larger_file_are_kept(channels, dtype):
    depth, top = (16, 65535) if dtype == "uint16" else (8, 255)
    pixels = np.stack([photo(61, 90, band)[..., 0] for band in range(channels)], axis=-1)
    pixels = (pixels / 255.0 * top).astype(dtype)
    content = bands.encode_png(tf.constant(pixels)).numpy()
    options = {"channels": channels, "bit_depth": depth}
    assert bound_shorter_side(content, 61, **options).numpy() == content
    result = bound_shorter_side(content, 24, **options)
    small = decode_image(result, **options).numpy()
    assert small.dtype == dtype and small.shape == (24, 35, channels)
    for band in range(channels):  # Pillow's mode F has no rounding to 8 bits.
        reference = Image.fromarray(pixels[..., band].astype(np.float32), "F")
        reference = reference.resize((35, 24), Image.Resampling.BICUBIC)
        difference = np.abs(small[..., band] - np.clip(np.asarray(reference), 0, top))
        assert difference.max() <= 0.6 + top * 1e-5
    if dtype == "uint16":
        assert len(np.unique(small)) > 256


def test_grey_of_8_bits_becomes_a_grey_jpeg():
    content = encoded(Image.fromarray(photo(61, 90)[..., 0]), "PNG")
    result = Image.open(io.BytesIO(bound_shorter_side(content, 24, channels=1).numpy()))
    assert (result.format, result.mode, result.size) == ("JPEG", "L", (35, 24))


def test_the_longer_side_is_the_nearest_to_the_aspect_and_at_least_the_shorter():
    def size(height, width, shorter_side):
        content = encoded(Image.fromarray(photo(height, width)), "PNG")
        result = bound_shorter_side(content, shorter_side).numpy()
        return Image.open(io.BytesIO(result)).size[::-1]

    assert size(40, 41, 13) == (13, 13)
    assert size(375, 500, 256) == (256, 341)
    assert size(2, 901, 1) == (1, 450)
    assert size(901, 3, 1) == (300, 1)


def test_colours_of_the_smaller_file_are_not_subsampled_and_the_quality_is_the_one_given():
    content = encoded(Image.fromarray(photo(80, 60)), "PNG")
    for quality in (60, 95):
        result = bound_shorter_side(content, 30, quality).numpy()
        reference = encoded(Image.new("RGB", (8, 8)), "JPEG", quality=quality, subsampling=0)
        jpeg, expected_jpeg = (Image.open(io.BytesIO(file)) for file in (result, reference))
        assert jpeg.quantization == expected_jpeg.quantization
        assert [layer[1:3] for layer in jpeg.layer] == [(1, 1)] * 3


def test_bounds_files_of_all_formats_in_a_map_inside_a_function():
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def bound(contents):
        return tf.map_fn(lambda content: bound_shorter_side(content, 20), contents)

    image = Image.fromarray(photo(50, 40))
    small = encoded(image.resize((20, 25)), "BMP")
    files = [encoded(image, "JPEG"), encoded(image, "PNG"), small, encoded(image, "GIF")]
    jpeg, png, unchanged, gif = bound(tf.constant(files)).numpy()
    assert unchanged == small
    assert all(Image.open(io.BytesIO(file)).size == (20, 25) for file in (jpeg, png, gif))
    for file, bounded in zip(files, (jpeg, png, unchanged, gif), strict=True):
        assert bound_shorter_side(file, 20).numpy() == bounded


def test_wrong_bounds_are_refused():
    with pytest.raises(UserError, match="shorter_side is 0"):
        bound_shorter_side(b"", 0)
    with pytest.raises(UserError, match="quality is 101"):
        bound_shorter_side(b"", 8, 101)
    with pytest.raises(tf.errors.InvalidArgumentError):
        bound_shorter_side(b"no image", 8)


@pytest.mark.parametrize("value", [1, 3, 5, 8])
def test_a_photo_is_turned_once_and_loses_its_exif(value):
    exif = Image.Exif()
    exif[0x0112] = value
    content = encoded(Image.fromarray(photo(60, 90)), "JPEG", quality=95, exif=exif)
    assert bound_shorter_side(content, 60).numpy() == content
    result = Image.open(io.BytesIO(bound_shorter_side(content, 20, 100).numpy()))
    assert not result.getexif()
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert result.size == ((20, 30) if value > 4 else (30, 20))
    reference = upright.resize(result.size, Image.Resampling.BICUBIC)
    difference = np.abs(np.asarray(result).astype(int) - np.asarray(reference).astype(int))
    assert difference.mean() < 1 and difference.max() <= 5

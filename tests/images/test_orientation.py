"""EXIF orientation against Pillow's `exif_transpose`, and damaged EXIF, which counts as none."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from pictures import encoded, photo
from PIL import Image, ImageOps

from byol_tf.images import orientation
from byol_tf.images.preprocessing import Preprocessing, decode_image
from byol_tf.images.random_crop import decode_and_random_crop, random_crop_windows
from byol_tf.images.view_config import VIEW_1

PICTURE = Image.fromarray(photo(20, 30))
decode = tf.function(decode_image, input_signature=[tf.TensorSpec([], tf.string)])
read = tf.function(orientation.read, input_signature=[tf.TensorSpec([], tf.string)])


def tiff(value, order="<", kind=3, count=1, start=8, entries=None):
    """Returns EXIF data with an orientation between two other tags."""
    name = {"<": b"II*\0", ">": b"MM\0*"}[order]
    rows = [
        struct.pack(order + "HHIHH", *row, 0)
        for row in ((0x0100, 3, 1, 7), (0x0112, kind, count, value), (0x0128, 3, 1, 2))
    ]
    number = len(rows) if entries is None else entries
    directory = struct.pack(order + "H", number) + b"".join(rows) + b"\0" * 4
    return name + struct.pack(order + "I", start) + b"\0" * (start - 8) + directory


def with_exif(exif, image_format="JPEG", picture=PICTURE, **options):
    options = {"quality": 95} | options if image_format == "JPEG" else options
    return encoded(picture, image_format, exif=b"Exif\0\0" + exif, **options)


def upright(content):
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_pixels_are_turned_as_pillow_turns_them(image_format, order, value):
    content = with_exif(tiff(value, order, start=8 + value), image_format)
    assert read(content).numpy() == value
    result = decode(content).numpy().astype(int)
    assert result.shape == ((30, 20, 3) if value > 4 else (20, 30, 3))
    np.testing.assert_allclose(result, upright(content), atol=1)


def test_damaged_exif_counts_as_none_and_never_fails():
    whole = tiff(6)
    broken = [whole[:end] for end in (0, 2, 4, 7, 8, 9, 10, 21, 25, 31)]
    broken += [tiff(value) for value in (0, 9, 65535)]
    broken += [tiff(6, kind=2), tiff(6, kind=5), tiff(6, count=0), tiff(6, count=2**31)]
    broken += [tiff(6, entries=0), tiff(6, entries=1), b"XX*\0" + whole[4:], b"II\0*" + whole[4:]]
    broken += [
        whole[:4] + struct.pack("<I", start) + whole[8:] for start in (0, 4, 2**31 - 1, 2**32 - 1)
    ]
    for exif in broken:
        content = with_exif(exif)
        assert read(content).numpy() == 1, exif
        assert decode(content).shape == (20, 30, 3)
    assert read(with_exif(tiff(6, entries=65535))).numpy() == 6  # As in Pillow.


def test_noise_never_fails():
    rng = np.random.default_rng(0)
    for _ in range(100):
        noise = rng.integers(0, 256, rng.integers(0, 60), np.uint8).tobytes()
        start = [b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"][rng.integers(3)]
        assert 1 <= read(with_exif(start + noise)).numpy() <= 8


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP", "GIF"])
def test_files_without_exif_are_as_they_are_stored(image_format):
    content = encoded(PICTURE, image_format)
    assert read(content).numpy() == 1 and decode(content).shape == (20, 30, 3)


def test_exif_after_a_preview_or_profile_counts():
    content = with_exif(tiff(8), icc_profile=b"p" * 60_000)
    assert read(content).numpy() == 8
    assert read(b"\xff\xd8\xff\xe2\xff\xff" + b"q" * 65533 + with_exif(tiff(8))[2:]).numpy() == 8


@pytest.mark.parametrize("value", [3, 6, 7])
def test_a_random_crop_is_one_of_the_upright_image(value):
    content = with_exif(tiff(value), picture=Image.fromarray(photo(75, 100)))
    seed = tf.constant([2, value])
    image = upright(content)
    ((top, left, height, width),) = random_crop_windows(*image.shape[:2], seed, [VIEW_1]).numpy()
    window = image[top : top + height, left : left + width].astype(np.float32)
    expected = tf.clip_by_value(tf.image.resize(window, [24, 24], "bicubic") / 255.0, 0.0, 1.0)
    crop = decode_and_random_crop(content, seed, 24, VIEW_1)
    np.testing.assert_allclose(crop, expected, atol=0.02)


def test_files_of_a_batch_are_turned_each_by_its_own():
    contents = [with_exif(tiff(value)) for value in (1, 6, 3)] + [encoded(PICTURE, "PNG")]
    preprocess = Preprocessing(16)
    rows = tf.function(preprocess.from_bytes)(tf.constant(contents))
    for row, content in zip(rows, contents, strict=True):
        wanted = preprocess(upright(content).astype(np.uint8))
        np.testing.assert_allclose(row, wanted, atol=0.02)

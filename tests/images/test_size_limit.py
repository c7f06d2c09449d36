"""Decompression bombs, made byte by byte or by Pillow; the kernel reports the memory they take."""

import contextlib
import io
import resource
import struct

import numpy as np
import pytest
import tensorflow as tf
from pictures import encoded, photo, png_claiming
from PIL import Image, ImageSequence

from byol_tf.images.preprocessing import decode_image
from byol_tf.images.size_limit import MAX_PIXELS, bounded


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def check(file):
    return bounded(file[tf.newaxis])[0]


def jpeg_header(width, height):
    """Returns a JPEG whose frame header claims another size than its pixels have."""
    file = bytearray(encoded(Image.fromarray(photo(16, 16)), "JPEG"))
    start = file.index(b"\xff\xc0")
    file[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(file)


@pytest.mark.parametrize("side", [1, 33, 300])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP", "GIF"])
def test_ordinary_images_are_what_they_were(image_format, side):
    file = encoded(Image.fromarray(photo(side, 40)), image_format)
    np.testing.assert_array_equal(decode_image(check(file)), decode_image(file))


@pytest.mark.parametrize("make", [png_claiming, jpeg_header])
def test_a_claim_of_more_pixels_is_refused(make):
    side = int(MAX_PIXELS**0.5)
    assert check(make(side, side)).numpy() == make(side, side)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="more pixels than the 67108864 this model takes"
    ):
        check(make(side, side + 1))


def test_the_largest_sizes_a_png_can_claim_do_not_overflow():
    for width, height in ((2**31 - 1, 2**31 - 1), (2**32 - 1, 2**32 - 1), (2**16, 2**16)):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode_image(check(png_claiming(width, height)))


@pytest.mark.parametrize("frames", [1, 2, 40])
@pytest.mark.parametrize("interlace", [0, 1])
def test_an_animation_is_cut_after_its_first_frame(frames, interlace):
    images = [Image.fromarray(photo(30, 50, seed)).quantize(64) for seed in range(frames)]
    file = encoded(
        images[0],
        "GIF",
        save_all=True,
        append_images=images[1:],
        loop=0,
        comment=b"x" * 600,
        interlace=interlace,
    )
    cut = check(file).numpy()
    with Image.open(io.BytesIO(cut)) as image:
        assert len(list(ImageSequence.Iterator(image))) == 1
    np.testing.assert_array_equal(decode_image(cut), decode_image(file))


def test_frames_after_the_first_are_never_unpacked():
    one = encoded(Image.new("P", (6000, 6000), 1), "GIF")
    start = one.index(b"\x2c\x00\x00\x00\x00")
    file = one[:start] + one[start:-1] * 100 + b";"
    assert len(file) < 3_000_000, "3.6 GB, if it were unpacked"
    decode_image(check(one))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert decode_image(check(file)).shape == [6000, 6000, 3]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


def test_a_gif_whose_frame_is_larger_than_its_screen_is_refused():
    file = bytearray(encoded(Image.fromarray(photo(20, 20)), "GIF"))
    start = file.index(b"\x2c\x00\x00\x00\x00")
    file[start + 5 : start + 9] = struct.pack("<HH", 65535, 65535)
    with pytest.raises(tf.errors.InvalidArgumentError, match="more pixels"):
        check(bytes(file))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP", "GIF"])
def test_broken_files_end_in_the_decoders_error(image_format):
    file = encoded(Image.fromarray(photo(30, 40)), image_format)
    for end in (1, 5, 7, 12, 20, 30, len(file) // 2):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode_image(check(file[:end]))


def test_noise_after_a_gifs_header_ends():
    rng = np.random.default_rng(0)
    for _ in range(200):
        file = b"GIF89a" + rng.integers(0, 256, 80, np.uint8).tobytes()
        with contextlib.suppress(tf.errors.InvalidArgumentError):
            decode_image(check(file))

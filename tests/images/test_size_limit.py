"""Decompression bombs, made byte by byte or by Pillow; the kernel reports the memory they take."""

import contextlib
import io
import resource
import struct
import time
import zlib

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


def progressive(side, scans):
    """Returns a progressive JPEG with empty scans: the most work for the least bytes."""

    def segment(marker, data):
        return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data

    components = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    table = bytes([0] * 7 + [1] + [0] * 8) + b"\0"  # One code, of 8 bits.
    return b"".join(
        [
            b"\xff\xd8",
            segment(0xDB, b"\0" + bytes([1] * 64)),
            segment(0xC2, struct.pack(">BHHB", 8, side, side, 3) + components),
            segment(0xC4, b"\x00" + table),
            segment(0xC4, b"\x10" + table),
            segment(0xDA, b"\x03\x01\0\x02\0\x03\0\0\0\0"),
            segment(0xDA, b"\x01\x01\0\x01\x3f\0") * (scans - 1),
            b"\xff\xd9",
        ]
    )


@pytest.mark.parametrize("side, scans", [(8192, 16), (4000, 67), (8, 2**16)])
def test_a_jpeg_of_many_empty_scans_is_refused(side, scans):
    fits = progressive(side, scans)
    assert check(fits).numpy() == fits
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="more scans than this model takes for its size"
    ):
        check(progressive(side, scans + 1))


def test_the_file_of_many_scans_is_one_that_decodes_and_is_found_in_a_batch():
    assert decode_image(progressive(64, 300)).shape == [64, 64, 3]
    plain = encoded(Image.fromarray(photo(20, 20)), "JPEG")
    with pytest.raises(tf.errors.InvalidArgumentError, match="more scans"):
        bounded(tf.constant([plain, progressive(8192, 9000), plain]))


def test_what_cameras_append_to_a_jpeg_does_not_count():
    """A motion photo is followed by megabytes of video, which contain the marker by chance."""
    noise = np.random.default_rng(0).integers(0, 256, 2**23, np.uint8).tobytes()
    assert noise.count(b"\xff\xda") > 89
    photo_12_megapixels = encoded(Image.new("RGB", (4000, 3000)), "JPEG", progressive=True)
    assert check(photo_12_megapixels + noise).numpy() == photo_12_megapixels + noise


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP"])
@pytest.mark.parametrize("at_end", [False, True])
def test_a_png_of_much_compressed_metadata_is_refused(name, at_end):
    file = encoded(Image.fromarray(photo(16, 16)), "PNG")
    data = b"k\0\1\0\0\0" if name == b"iTXt" else b"k\0\0"
    data += zlib.compress(bytes([97] * 7_900_000), 9)
    chunk = struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    at = len(file) - 12 if at_end else 33
    assert check(file[:at] + chunk * 16 + file[at:]).numpy()
    with pytest.raises(tf.errors.InvalidArgumentError, match="16 chunks of compressed text"):
        check(file[:at] + chunk * 17 + file[at:])


def test_a_gif_of_sub_blocks_of_one_byte_costs_no_step_for_each():
    start = encoded(Image.fromarray(photo(20, 20)), "GIF").index(b"\x2c\x00\x00\x00\x00")
    head = encoded(Image.fromarray(photo(20, 20)), "GIF")[:start]
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 20, 20, 0) + b"\x08"
    file = head + frame + b"\x01\x61" * 1_000_000 + b"\0"
    before = time.process_time()
    assert check(file + file[start:] + b";").numpy() == file + b";"
    assert time.process_time() - before < 5, "17 s, a byte at a time"


@pytest.mark.parametrize("longest", [1, 2, 17, 255])
def test_a_gif_is_cut_at_its_first_frame_however_it_is_divided(longest):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 90), np.uint8))
    file = encoded(image, "GIF")
    start = file.index(b"\x2c\x00\x00\x00\x00") + 11
    data, at = b"", start
    while file[at]:
        data, at = data + file[at + 1 : at + 1 + file[at]], at + 1 + file[at]
    rng = np.random.default_rng(longest)
    blocks = []
    while data:
        length = int(rng.integers(1, longest + 1))
        blocks.append(bytes([len(data[:length])]) + data[:length])
        data = data[length:]
    divided = file[:start] + b"".join(blocks) + b"\0"
    result = check(divided + file[start - 11 :]).numpy()
    assert result == divided + b";"
    np.testing.assert_array_equal(decode_image(result), decode_image(file))


def test_a_gif_of_many_extensions_has_no_frame():
    file = encoded(Image.fromarray(photo(20, 20)), "GIF")
    start = file.index(b"\x2c\x00\x00\x00\x00")
    few, many = (file[:start] + b"\x21\xfe\1a\0" * n + file[start:] for n in (20, 500_000))
    np.testing.assert_array_equal(decode_image(check(few)), decode_image(file))
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_image(check(many))


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

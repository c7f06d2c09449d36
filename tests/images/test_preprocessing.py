"""Decoding against Pillow, geometry and resize against NumPy written from the definitions."""

import io

import numpy as np
import pytest
import tensorflow as tf
from pictures import FORMATS, encoded, photo
from PIL import Image

from byol_tf.errors import UserError
from byol_tf.images import preprocessing


def cubic_weights(size: int, new_size: int) -> np.ndarray:
    """Returns Keys' cubic (a = -0.5) at half-pixel centres, normalised at the border.

    The shape is `[new_size, size]`.
    """

    def cubic(x):
        x = np.abs(x)
        near = 1.5 * x**3 - 2.5 * x**2 + 1.0
        far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        return np.where(x <= 1, near, np.where(x < 2, far, 0.0))

    centers = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    weights = cubic(centers[:, np.newaxis] - np.arange(size))
    return weights / weights.sum(axis=1, keepdims=True)


def expected(image: np.ndarray, size: int, fraction: float) -> np.ndarray:
    height, width, _ = image.shape
    side = max(int(fraction * min(height, width)), 1)
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    crop = image[top : top + side, left : left + side]
    weights = cubic_weights(side, size)
    resized = np.einsum("yh,hwc,xw->yxc", weights, crop.astype(np.float64), weights)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    return (np.clip(resized / 255.0, 0.0, 1.0) - mean) / std


@pytest.mark.parametrize(
    "height, width, size, fraction",
    [(64, 64, 32, 0.875), (33, 57, 32, 0.875), (91, 40, 24, 1), (10, 7, 32, 0.5), (1, 5, 8, 0.875)],
)
def test_equals_center_crop_and_bicubic_of_numpy(height, width, size, fraction):
    image = photo(height, width)
    result = preprocessing.Preprocessing(size, fraction)(image)
    assert result.dtype == tf.float32
    # TensorFlow's kernel tabulates the cubic at 1024 offsets: 1/255 of a value is the known cost.
    np.testing.assert_allclose(result, expected(image, size, fraction), atol=0.02)


@pytest.mark.parametrize("shorter, side", [(9, 7), (256, 224), (257, 224), (320, 280)])
def test_the_centre_crop_truncates_as_the_authors_do(shorter, side):
    """The kept square has int(0.875 · shorter side) pixels, 7 of 7.875 for 9."""
    # Columns count from 0: a crop that is not resized begins and ends with its first and last.
    width = shorter + 11
    image = np.broadcast_to(np.arange(width)[:, np.newaxis] % 256, (shorter, width, 3))
    plain = preprocessing.Preprocessing(side, 0.875, mean=(0.0,) * 3, std=(1.0,) * 3)
    left = (width - side + 1) // 2
    wanted = np.arange(left, left + side) % 256
    np.testing.assert_allclose(plain(image.astype(np.uint8))[0, :, 0] * 255, wanted, atol=1e-4)


def test_image_of_the_target_size_is_only_normalised():
    image = photo(32, 32)
    result = preprocessing.Preprocessing(32, 1.0, mean=(0.5,) * 3, std=(0.25,) * 3)(image)
    np.testing.assert_allclose(result, (image / 255.0 - 0.5) / 0.25, atol=1e-5)


def test_large_and_small_images_take_the_same_resize():
    """The resize runs on float below a size and on uint8 above it."""
    large = photo(700, 800)
    result = preprocessing.resize_bicubic(large, 16)
    rows, columns = cubic_weights(700, 16), cubic_weights(800, 16)
    expected_large = np.einsum("yh,hwc,xw->yxc", rows, large.astype(np.float64), columns)
    np.testing.assert_allclose(result, expected_large, atol=1.0)
    as_float = tf.image.resize(tf.cast(large, tf.float32), [16, 16], "bicubic")
    np.testing.assert_array_equal(result, as_float)


def test_overshoot_is_clipped_before_normalisation():
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, 8:] = 255
    assert np.ptp(tf.image.resize(image, [40, 40], "bicubic")) > 255
    result = preprocessing.Preprocessing(40, 1.0, mean=(0.0,) * 3, std=(1.0,) * 3)(image)
    assert np.min(result) == 0.0 and np.max(result) == 1.0


def test_batch_equals_images_one_by_one():
    preprocess = preprocessing.Preprocessing(20)
    images = np.stack([photo(50, 41, seed) for seed in range(3)])
    np.testing.assert_array_equal(preprocess(images), tf.stack([preprocess(i) for i in images]))


def test_normalize_uses_imagenet_statistics_by_default():
    result = preprocessing.Preprocessing(8).normalize(tf.ones([1, 1, 3]))
    np.testing.assert_allclose(result[0, 0], [2.2489083, 2.4285715, 2.64], rtol=1e-6)


@pytest.mark.parametrize(
    "height, width, top, left", [(20, 25, 0, 2), (27, 20, 4, 0), (20, 20, 0, 0)]
)
def test_the_crop_after_a_resize_rounds_to_even_as_torchvision_does(height, width, top, left):
    image = photo(height, width)
    plain = preprocessing.Preprocessing(20, 1.0, (0.0,) * 3, (1.0,) * 3, "bilinear")
    wanted = image[top : top + 20, left : left + 20] / 255.0
    np.testing.assert_allclose(plain(image), wanted, atol=1e-6)
    np.testing.assert_array_equal(plain(image[np.newaxis])[0], plain(image))


def test_a_fraction_keeps_the_centre_of_the_resized_image():
    """224 of 256: what torchvision's ImageNet preset keeps."""
    image = photo(256, 256)
    plain = preprocessing.Preprocessing(224, 0.875, (0.0,) * 3, (1.0,) * 3, "bilinear")
    np.testing.assert_allclose(plain(image), image[16:240, 16:240] / 255.0, atol=1e-6)


def test_an_unknown_resize_is_refused():
    with pytest.raises(UserError, match="resize 'nearest' is unknown; give one of bicubic, bilin"):
        preprocessing.Preprocessing(8, resize="nearest")


@pytest.mark.parametrize("name", FORMATS)
def test_decodes_as_pillow_does(name):
    mode, image_format, options = FORMATS[name]
    content = encoded(Image.fromarray(photo(21, 34)).convert(mode), image_format, **options)
    result = preprocessing.decode_image(content)
    reference = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert result.dtype == tf.uint8 and result.shape == (21, 34, 3)
    np.testing.assert_allclose(result.numpy().astype(int), reference.astype(int), atol=1)


def test_cmyk_jpeg_becomes_rgb():
    image = Image.fromarray(photo(24, 24))
    content = encoded(image.convert("CMYK"), "JPEG", quality=95)
    result = preprocessing.decode_image(content).numpy().astype(int)
    assert result.shape == (24, 24, 3)
    assert np.abs(result - np.asarray(image)).mean() < 10


def test_sixteen_bit_png_keeps_its_high_byte():
    pixels = np.array([[0, 257, 32896, 65535]], np.uint16)
    result = preprocessing.decode_image(encoded(Image.fromarray(pixels), "PNG"))
    np.testing.assert_array_equal(result[0, :, 0], [0, 1, 128, 255])


def test_alpha_is_dropped_not_blended():
    pixels = np.full((4, 4, 4), 200, np.uint8)
    pixels[..., 3] = 0
    result = preprocessing.decode_image(encoded(Image.fromarray(pixels), "PNG"))
    assert np.all(result == 200)


def test_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(preprocessing.decode_image(content)[0, 0], [255, 0, 0])


@pytest.mark.parametrize("content", [b"", b"BM", b"no image", b"\xff\xd8\xff"])
def test_bytes_that_are_no_image_are_refused(content):
    with pytest.raises(tf.errors.InvalidArgumentError):
        preprocessing.decode_image(content)


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.fromarray(photo(16, 16)), "WEBP"),
        # Headers of JPEG XL, as a codestream and in a container; Pillow does not write it.
        b"\xff\x0a" + bytes(60),
        b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(60),
    ],
)
def test_formats_that_only_new_versions_of_tensorflow_decode_are_refused(content):
    with pytest.raises(tf.errors.InvalidArgumentError, match="One of JPEG, PNG, GIF, BMP required"):
        preprocessing.decode_image(content)


def test_truncated_jpeg_is_refused():
    content = encoded(Image.fromarray(photo(64, 64)), "JPEG")
    with pytest.raises(tf.errors.InvalidArgumentError):
        preprocessing.decode_image(content[: len(content) // 2])


def test_from_bytes_equals_decode_and_call_whatever_the_sizes():
    preprocess = preprocessing.Preprocessing(16)
    images = [photo(40, 30), photo(12, 90), photo(16, 16)]
    contents = [
        encoded(Image.fromarray(image), image_format)
        for image, image_format in zip(images, ("JPEG", "PNG", "BMP"), strict=True)
    ]
    result = preprocess.from_bytes(tf.constant(contents))
    for row, content in zip(result, contents, strict=True):
        pillow = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        np.testing.assert_allclose(row, preprocess(pillow), atol=0.02)


def test_real_photos_are_decoded_and_preprocessed(images_dir):
    files = sorted(images_dir.glob("test/*/*.jpg"))[:5]
    result = preprocessing.Preprocessing(32, 1.0).from_bytes([f.read_bytes() for f in files])
    pillow = np.stack([np.asarray(Image.open(f).convert("RGB")) for f in files])
    direct = preprocessing.Preprocessing(32, 1.0)(pillow)
    np.testing.assert_allclose(result, direct, atol=0.02)


def test_works_inside_a_saved_model_with_unknown_sizes(tmp_path):
    preprocess = preprocessing.Preprocessing(16)
    module = tf.Module()
    module.pixels = tf.function(
        preprocess, input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)]
    )
    module.image_bytes = tf.function(
        preprocess.from_bytes, input_signature=[tf.TensorSpec([None], tf.string)]
    )
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))

    image = photo(37, 29)
    np.testing.assert_allclose(loaded.pixels(image[np.newaxis])[0], preprocess(image), atol=1e-6)
    png, jpeg = (encoded(Image.fromarray(image), name) for name in ("PNG", "JPEG"))
    result = loaded.image_bytes([png, jpeg])
    np.testing.assert_allclose(result, preprocess.from_bytes([png, jpeg]), atol=1e-6)
    assert loaded.image_bytes(tf.zeros([0], tf.string)).shape == (0, 16, 16, 3)


def test_output_shape_is_static_but_for_the_batch():
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def trace(images):
        result = preprocessing.Preprocessing(16)(images)
        assert result.shape.as_list() == [None, 16, 16, 3]
        return result

    assert trace(photo(20, 20)[np.newaxis]).shape == (1, 16, 16, 3)


@pytest.mark.parametrize(
    "wrong, name",
    [
        ({"image_size": 0}, "image_size"),
        ({"image_size": 2.5}, "image_size"),
        ({"crop_fraction": 0.0}, "crop_fraction"),
        ({"crop_fraction": 1.1}, "crop_fraction"),
        ({"mean": (0.5, 0.5)}, "mean"),
        ({"mean": (0.5, float("nan"), 0.5)}, "mean"),
        ({"std": (0.5, 0.0, 0.5)}, "std"),
        ({"std": (0.5,) * 4}, "std"),
    ],
)
def test_wrong_numbers_are_refused_by_name(wrong, name):
    with pytest.raises(UserError, match=name):
        preprocessing.Preprocessing(**{"image_size": 8, **wrong})


def test_lists_of_a_config_make_an_equal_value():
    lists = preprocessing.Preprocessing(8, mean=[0.1, 0.2, 0.3], std=[1, 1, 1])
    assert lists == preprocessing.Preprocessing(8, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))
    assert hash(lists) is not None


@pytest.mark.parametrize("bit_depth", [8, 16])
def test_each_channel_is_preprocessed_as_one_of_rgb(bit_depth):
    """Whose crop, resize and normalisation have been compared with NumPy and Pillow above."""
    dtype = np.uint16 if bit_depth == 16 else np.uint8
    pixels = np.random.default_rng(0).integers(0, 2**bit_depth, (2, 50, 70, 5), dtype)
    mean, std = np.linspace(0.3, 0.6, 5), np.linspace(0.2, 0.3, 5)
    result = preprocessing.Preprocessing(24, 0.8, mean, std, bit_depth=bit_depth)(pixels)
    upper = pixels >> (bit_depth - 8)
    for channel in range(5):
        plain = preprocessing.Preprocessing(24, 0.8, (mean[channel],) * 3, (std[channel],) * 3)
        rgb = plain(np.repeat(upper[..., channel, np.newaxis], 3, axis=3).astype(np.uint8))
        # The lower 8 bits are less than a level of 8.
        tolerance = 1e-5 if bit_depth == 8 else 1.5 / 255 / std[channel]
        np.testing.assert_allclose(result[..., channel], rgb[..., 0], atol=tolerance)

"""WebP, TIFF and HEIC against what Pillow and NumPy make of the same images, in both packages."""

import pathlib

import messy_folder
import numpy as np
import pytest
import tensorflow as tf
from pictures import encoded, photo
from PIL import Image

from byol_tf import data
from byol_tf.images import file_formats, size_limit
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.sources import open_source
from serving.search import file_formats as of_serving
from serving.search import image_files

PHOTO = photo(30, 40)


def pixels(file: bytes) -> np.ndarray:
    return tf.io.decode_image(file, channels=3).numpy()


def both(content: bytes, path: pathlib.Path) -> list[bytes]:
    """Returns what training, the pipeline and byol-embed make of a file."""
    path.write_bytes(content)
    assert file_formats.is_for_pillow(content)
    return [
        file_formats.decodable(tf.constant(content)).numpy(),
        file_formats.convert(content, "PNG"),
        of_serving.read(str(path)),
    ]


@pytest.mark.parametrize(
    ("image", "expected", "file_format", "options"),
    [
        (Image.fromarray(PHOTO), PHOTO, "WEBP", {"lossless": True}),
        (Image.fromarray(PHOTO), PHOTO, "TIFF", {}),
        (Image.fromarray(PHOTO * 0), PHOTO * 0, "TIFF", {"compression": "tiff_lzw"}),
        (
            Image.fromarray((PHOTO[..., 0].astype(np.uint16) << 8) | 0xAB),
            np.repeat(PHOTO[..., :1], 3, axis=2),
            "TIFF",
            {},
        ),
        (
            Image.fromarray(PHOTO),
            PHOTO,
            "TIFF",
            {"save_all": True, "append_images": [Image.fromarray(255 - PHOTO)]},
        ),
    ],
    ids=["webp", "tiff", "black", "16 bit", "two pages"],
)
def test_pixels_are_those_of_the_image(tmp_path, image, expected, file_format, options):
    for file in both(encoded(image, file_format, **options), tmp_path / "image"):
        np.testing.assert_array_equal(pixels(file), expected)


@pytest.mark.parametrize("file_format", ["WEBP", "TIFF"])
def test_a_photo_stored_sideways_is_turned_once(tmp_path, file_format):
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned clockwise.
    options = {"exif": exif} | ({"lossless": True} if file_format == "WEBP" else {})
    content = encoded(Image.fromarray(PHOTO), file_format, **options)
    for file in both(content, tmp_path / "image"):
        np.testing.assert_array_equal(pixels(file), np.rot90(PHOTO, -1))


def test_heic_is_read_with_pillow_heif(tmp_path):
    pytest.importorskip("pillow_heif").register_heif_opener()
    for file in both(encoded(Image.fromarray(PHOTO), "HEIF", quality=95), tmp_path / "image"):
        difference = np.abs(pixels(file).astype(int) - PHOTO)
        assert difference.mean() < 10  # Another image differs by about 60.


def test_what_cannot_be_converted_has_a_reason(tmp_path, monkeypatch):
    whole = encoded(Image.fromarray(PHOTO), "WEBP")
    wide = encoded(Image.fromarray(PHOTO[..., 0].astype(np.float32)), "TIFF")
    with monkeypatch.context() as patch:
        patch.setattr(file_formats, "MAX_PIXELS", 1199)
        with pytest.raises(ValueError, match="more pixels than the 1199"):
            file_formats.convert(whole, "PNG")
    for content in (whole[:100], wide, b"II*\0" + b"\xff" * 100):
        (tmp_path / "image").write_bytes(content)
        with pytest.raises(ValueError) as raised:
            file_formats.convert(content, "PNG")
        with pytest.raises(ValueError) as of_client:
            of_serving.read(str(tmp_path / "image"))
        with pytest.raises(tf.errors.InvalidArgumentError) as of_graph:
            file_formats.decodable(tf.constant(content))
        assert str(raised.value) == str(of_client.value)
        assert str(raised.value) in str(of_graph.value)
    assert of_serving.tiff.MAX_PIXELS == size_limit.MAX_PIXELS


def test_training_reads_what_is_in_a_messy_folder(tmp_path, images_dir):
    facts = messy_folder.build(tmp_path / "messy", images_dir / "test")
    source = open_source(str(tmp_path / "messy"))
    dataset = data.evaluation_dataset(source, Preprocessing(16), 64)
    keys = {key.decode(errors="surrogateescape") for _, _, k in dataset for key in k.numpy()}
    assert set(source.corrupt.reasons) == facts.corrupt
    assert source.corrupt.reasons["broken/cut.webp"].startswith("Pillow cannot decode it")
    assert source.corrupt.reasons["broken/huge.png"].startswith("an image has more pixels")
    assert keys == facts.images
    found = image_files.find([str(tmp_path / "messy")])
    assert found == sorted(str(tmp_path / "messy" / key) for key in keys | facts.corrupt)

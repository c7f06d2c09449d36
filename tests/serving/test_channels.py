"""Models of other channels than RGB's and of 16 bits: server, client, files, search, pictures."""

import base64
import inspect
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import requests
import tensorflow as tf
from PIL import Image
from serve import ROOT

from byol_tf.images import file_formats as training_formats
from byol_tf.images import tiff as training_tiff
from byol_tf.images.preprocessing import decode_image
from byol_tf.images.size_limit import MAX_PIXELS
from serving import png
from serving.client import EmbeddingClient, EmbeddingError
from serving.client.transport import PixelFormat, Target
from serving.search import embeddings, file_formats
from serving.search import tiff as tiff_reader
from serving.search.pictures import Pictures
from serving.search.saved_model import SavedModelTransport

RANDOM = np.random.default_rng(0)


def drawn(channels, dtype, height=24, width=20):
    return RANDOM.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True)


def tiff(pixels, **options):
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def images():
    return [drawn(5, "uint16") for _ in range(3)]


@pytest.fixture(scope="module")
def expected(bands_dir, images):
    """Embeddings by the SavedModel itself."""
    model = tf.saved_model.load(str(bands_dir / "1"))
    batch = tf.constant(np.stack(images), tf.uint16)
    return model.signatures["pixels"](images=batch)["embedding"].numpy()


@pytest.fixture(params=["grpc", "rest"])
def client(server, request):
    address = server.address if request.param == "grpc" else server.url
    with EmbeddingClient(address, "bands") as client:
        yield client


def test_arrays_and_files_of_five_bands_give_the_models_own_embeddings(client, images, expected):
    big_endian = [image.astype(">u2") for image in images]
    files = [png.encode(image) for image in images]
    for given in (images, np.stack(images), big_endian, files):
        np.testing.assert_allclose(client.embed(given), expected, rtol=0, atol=1e-5)


def test_a_client_knows_what_a_model_takes(client, server, bands_dir, encoder_dir):
    assert client.pixel_format() == PixelFormat(5, "uint16")
    with EmbeddingClient(server.url, "byol") as other:
        assert other.pixel_format() == PixelFormat(3, "uint8")
    transport = SavedModelTransport(str(bands_dir))
    assert transport.pixel_format(Target("bands"), 1.0) == PixelFormat(5, "uint16")
    for address in (server.address, server.url):
        with EmbeddingClient(address, "echo") as other, pytest.raises(EmbeddingError) as caught:
            other.pixel_format()
        assert "model echo at" in str(caught.value) and "no signature pixels" in str(caught.value)


def test_arrays_of_other_channels_are_refused_by_a_sentence_with_the_models(client, server):
    wrong = drawn(4, "uint16")
    with pytest.raises(EmbeddingError) as caught:
        client.embed(wrong)
    assert caught.value.code == "INVALID_ARGUMENT"
    # Over REST, an array of 16 bits is sent as a PNG.
    assert re.search(
        r"this model takes \[\?, \?, \?, 5\]|has 4 bands, not the 5", str(caught.value)
    )
    for address in (server.address, server.url):
        with EmbeddingClient(address) as other, pytest.raises(EmbeddingError) as caught:
            other.embed(drawn(4, "uint8"))
        assert str(caught.value).endswith(
            "The input images has the shape [1, 24, 20, 4], and this model takes [?, ?, ?, 3]."
        )


def test_arrays_of_another_depth_are_refused_by_a_sentence(server, bands_dir):
    with EmbeddingClient(server.address, "bands") as client, pytest.raises(EmbeddingError) as wrong:
        client.embed(drawn(5, "uint8"))
    assert "to be uint16 but uint8 is provided" in str(wrong.value)
    in_process = EmbeddingClient.over(SavedModelTransport(str(bands_dir)), Target("bands"))
    with pytest.raises(EmbeddingError) as wrong:
        in_process.embed(drawn(5, "uint8"))
    assert str(wrong.value).endswith(
        "the images are uint8 [N, H, W, 5], and the model takes uint16 [N, H, W, 5]"
    )


def test_json_numbers_are_read_for_uint8_only_as_in_tf_serving(server):
    def post(model, pixels):
        body = {"signature_name": "pixels", "instances": pixels.tolist()}
        return requests.post(f"{server.url}/v1/models/{model}:predict", json=body, timeout=60)

    assert post("byol", drawn(3, "uint8")[np.newaxis]).status_code == 200
    answer = post("bands", drawn(5, "uint16", 2, 2)[np.newaxis])
    assert answer.status_code == 400 and "to type: uint16" in answer.json()["error"]
    # The way that works with both servers.
    content = base64.b64encode(png.encode(drawn(5, "uint16"))).decode()
    body = {"instances": [{"b64": content}]}
    url = f"{server.url}/v1/models/bands:predict"
    assert requests.post(url, data=json.dumps(body), timeout=60).status_code == 200


@pytest.mark.parametrize(
    ("mode", "channels", "dtype"),
    [
        ("1", 1, "uint8"),
        ("L", 1, "uint16"),
        ("L", 3, "uint8"),
        ("RGB", 3, "uint8"),
        ("RGBA", 3, "uint8"),
        ("RGBA", 4, "uint8"),
        ("CMYK", 3, "uint8"),
        ("I;16", 1, "uint16"),
        ("I;16", 3, "uint8"),
        (3, 3, "uint16"),
        (5, 5, "uint16"),
        (5, 5, "uint8"),
    ],
)
def test_a_tiff_is_read_as_in_training(tmp_path, mode, channels, dtype):
    path, depth = tmp_path / "a.tif", 16 if dtype == "uint16" else 8
    if isinstance(mode, int):
        path.write_bytes(
            tiff(drawn(mode, "uint16"), photometric="minisblack", planarconfig="contig")
        )
    elif mode == "I;16":
        Image.fromarray(drawn(1, "uint16")[..., 0]).save(path)
    else:
        Image.fromarray(drawn(4, "uint8")).convert(mode).save(path)
    ours = decode_image(file_formats.read(str(path)), channels, depth)
    theirs = decode_image(training_formats.convert(path.read_bytes(), "PNG"), channels, depth)
    np.testing.assert_array_equal(ours, theirs)
    assert len(np.unique(ours)) > 1


def test_the_reader_of_tiffs_is_the_same_code_as_in_training():
    def functions(module):
        return inspect.getsource(module).partition("_MAX_BYTES")[2]

    assert functions(tiff_reader) == functions(training_tiff)
    assert tiff_reader.MAX_PIXELS == MAX_PIXELS


def shown(tmp_path, content, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    picture = Pictures(None, "", str(tmp_path / "page.html")).of_file(str(path))
    data = base64.b64decode(picture.thumbnail.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)))


def test_pictures_show_grey_of_16_bits_and_the_first_three_bands(tmp_path):
    grey = np.linspace(100, 4095, 24 * 20).reshape(24, 20, 1).astype(np.uint16)
    visible = shown(tmp_path, png.encode(grey), ".png")
    assert (visible.min(), visible.max()) == (0, 255) and visible.shape == (24, 20, 3)
    stretched = (grey - 100.0) / (4095 - 100) * 255
    assert np.abs(visible - stretched).max() <= 1
    bands = drawn(5, "uint8")
    np.testing.assert_array_equal(shown(tmp_path, png.encode(bands), ".png"), bands[..., :3])
    content = tiff(bands, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(shown(tmp_path, content, ".tif"), bands[..., :3])


def test_byol_embed_embeds_a_folder_of_tiffs_of_five_bands(server, tmp_path, images, expected):
    for number, image in enumerate(images):
        content = tiff(image, photometric="minisblack", planarconfig="contig")
        (tmp_path / f"{number}.tif").write_bytes(content)
    Image.fromarray(drawn(3, "uint8")).save(tmp_path / "photo.tif")
    command = [
        sys.executable, "-m", "serving.search.embed", f"--address={server.address}",
        "--model_name=bands", "--output=out.npy", ".",
    ]  # fmt: skip
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )  # fmt: skip
    assert "out.npy: 3 embeddings" in result.stdout
    assert "it has 3 bands, not the 5 of config.channels" in result.stdout
    found = embeddings.read(str(tmp_path / "out.npy"))
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-5)

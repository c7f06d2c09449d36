"""ONNX files, run by ONNX Runtime, against the Keras encoder with its TensorFlow preprocessing."""

import json
import re
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from byol_tf import export
from byol_tf.errors import UserError
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.models import networks

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("tf2onnx", reason="the extra onnx is not installed")

SIZE = 47  # Division by a power of two would be exact.
PREPROCESSING = Preprocessing(SIZE, 0.8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def encoder():
    encoder = networks.resnet(10, 0.25, SIZE, "small")
    rng = np.random.default_rng(0)
    for weight in encoder.weights:
        if "kernel" not in weight.name:
            weight.assign(rng.uniform(0.3, 0.9, size=weight.shape))
    return encoder


def small_encoder():
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            keras.layers.Conv2D(12, 3, activation="relu"),
            networks.BatchNorm(),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )


@pytest.fixture(scope="module")
def photos(images_dir):
    """Real images uint8 `[1, H, W, 3]`, as they are and enlarged to photos of other aspects."""
    files = sorted((images_dir / "test").glob("*/0000.jpg"))
    sizes = [(32, 32), (97, 64), (200, 301), (20, 31)]
    return [
        np.asarray(Image.open(file).resize(sizes[i % 4], Image.Resampling.BICUBIC))[np.newaxis]
        for i, file in enumerate(files)
    ]


@pytest.fixture(scope="module")
def path(encoder, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "photos.onnx"
    export.save_onnx(encoder, path, preprocessing=PREPROCESSING, metadata={"top_1": 0.5})
    return path


def run(path, images):
    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {"images": images})[0]


def test_embeddings_equal_the_keras_encoders_on_photos_of_any_size(path, encoder, photos):
    expected = [encoder(PREPROCESSING(photo), training=False).numpy() for photo in photos]
    assert np.abs(expected).mean() > 0.1
    assert np.abs(np.stack(expected[1:]) - expected[0]).max(axis=-1).min() > 0.01
    for photo, embedding in zip(photos, expected, strict=True):
        np.testing.assert_allclose(run(path, photo), embedding, rtol=0, atol=TOLERANCE)


def test_a_batch_of_any_size_is_taken(path, encoder, photos):
    batch = np.concatenate([photos[i] for i in (0, 4, 8)])
    expected = encoder(PREPROCESSING(batch), training=False)
    np.testing.assert_allclose(run(path, batch), expected, rtol=0, atol=TOLERANCE)
    assert run(path, batch[:0]).shape == (0, 128)


def test_input_and_output_are_those_of_the_documented_table(path):
    row = r"\| `(\w+)`: (\w+) `(\[.*?\])` \| `(\w+)`: (\w+) `(\[.*?\])` \|"
    ((name, dtype, shape, output, output_dtype, output_shape),) = re.findall(
        row, export.onnx_file.__doc__
    )
    session = onnxruntime.InferenceSession(str(path))
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, dtype) == (name, "tensor(uint8)", "uint8")
    assert (result.name, result.type, output_dtype) == (output, "tensor(float)", "float32")
    sizes = [size if isinstance(size, int) else None for size in given.shape]
    assert (sizes, shape) == ([None, None, None, 3], "[B, H, W, 3]")
    sizes = [size if isinstance(size, int) else None for size in result.shape]
    assert (sizes, output_shape) == ([None, 128], "[B, D]")


def test_the_graph_keeps_to_what_tensorrt_takes(path):
    """No float64, uint8 only for what is cast at once, no operation outside of ONNX."""
    import onnx

    graph = onnx.load(path).graph
    assert {n.op_type for n in graph.node if "images" in n.input} == {"Cast"}
    assert {node.domain for node in graph.node} <= {"", "ai.onnx"}
    assert not [i.name for i in graph.initializer if i.data_type == onnx.TensorProto.DOUBLE]
    casts = [a.i for n in graph.node if n.op_type == "Cast" for a in n.attribute if a.name == "to"]
    assert casts and onnx.TensorProto.DOUBLE not in casts


def test_the_card_says_what_was_compared(path, encoder):
    card = json.loads(path.with_name("photos.onnx.card.json").read_text())
    assert card["top_1"] == 0.5 and card["architecture"] == encoder.name
    assert card["format"] == "onnx" and "uint8 [B, H, W, C]" in card["input"]
    assert card["compared"]["images"] == 3 and card["compared"]["largest_difference"] < TOLERANCE
    assert {"onnxruntime", "tf2onnx", "tensorflow"} <= card["versions"].keys()


def test_a_saved_model_is_converted(photos, tmp_path):
    saved = tmp_path / "photos" / "1"
    export.save_encoder(
        small_encoder(), saved, preprocessing=PREPROCESSING, metadata={"top_1": 0.6}
    )
    export.save_onnx(saved, tmp_path / "photos.onnx", images=np.concatenate(photos[::4]))
    pixels = tf.saved_model.load(str(saved)).signatures["pixels"]
    for photo in photos:
        expected = pixels(images=tf.constant(photo))["embedding"]
        embedding = run(tmp_path / "photos.onnx", photo)
        np.testing.assert_allclose(embedding, expected, rtol=0, atol=TOLERANCE)
    card = json.loads((tmp_path / "photos.onnx.card.json").read_text())
    assert card["top_1"] == 0.6 and card["compared"]["images"] == 3 + len(photos[::4])


def grouped():
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            keras.layers.Conv2D(12, 3, groups=3, padding="same"),
            keras.layers.GroupNormalization(groups=3),
            keras.layers.LayerNormalization(),
            keras.layers.Activation("gelu"),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )


def mobilenet():
    return keras.applications.MobileNetV3Small(
        (SIZE, SIZE, 3),
        include_top=False,
        pooling="avg",
        weights=None,
        include_preprocessing=False,
    )


@pytest.mark.parametrize("build", [grouped, pytest.param(mobilenet, marks=pytest.mark.slow)])
def test_encoders_of_others_are_converted(build, photos, tmp_path):
    encoder = build()
    export.save_onnx(encoder, tmp_path / "other.onnx", preprocessing=PREPROCESSING)
    for photo in photos[:4]:
        expected = encoder(PREPROCESSING(photo), training=False)
        embedding = run(tmp_path / "other.onnx", photo)
        np.testing.assert_allclose(embedding, expected, rtol=0, atol=TOLERANCE)


@keras.saving.register_keras_serializable("tests")
class SingularValues(keras.layers.Layer):
    """A layer whose operation neither ONNX nor TFLite has."""

    def call(self, images):
        return tf.linalg.svd(images[..., 0], compute_uv=False)

    def compute_output_shape(self, shape):
        return (*shape[:-3], shape[-2])


def test_an_operation_that_onnx_lacks_gets_a_sentence(tmp_path):
    encoder = keras.Sequential([keras.Input((SIZE, SIZE, 3)), SingularValues()], name="odd")
    with pytest.raises(UserError, match=r"'odd' cannot be converted to ONNX \(.*Svd"):
        export.save_onnx(encoder, tmp_path / "1.onnx", preprocessing=PREPROCESSING)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_differs_from_the_encoder_is_refused(encoder, tmp_path, monkeypatch):
    preprocess = export.onnx_file.preprocess
    monkeypatch.setattr(export.onnx_file, "preprocess", lambda *args: preprocess(*args) + 0.01)
    with pytest.raises(UserError, match=r"ONNX file gives other embeddings .* 0\.0001 is allowed"):
        export.save_onnx(encoder, tmp_path / "1.onnx", preprocessing=PREPROCESSING)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_its_pip_line(encoder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(UserError, match=r"tf2onnx; run pip install 'byol_tf\[onnx\]'"):
        export.save_onnx(encoder, tmp_path / "1.onnx", preprocessing=PREPROCESSING)


def test_bad_paths_are_refused_and_left_alone(encoder, tmp_path):
    (tmp_path / "1.onnx").write_text("precious")
    (tmp_path / "2.onnx.card.json").write_text("precious")
    for name, sentence in (
        ("1.onnx", "exists already"),
        ("2.onnx", "2.onnx.card.json' exists already"),
        ("3.tflite", "does not end with .onnx"),
    ):
        with pytest.raises(UserError, match=sentence):
            export.save_onnx(encoder, tmp_path / name, preprocessing=PREPROCESSING)
    assert {file.name for file in tmp_path.iterdir()} == {"1.onnx", "2.onnx.card.json"}
    with pytest.raises(UserError, match="give its preprocessing"):
        export.save_onnx(encoder, tmp_path / "3.onnx")


def test_more_than_two_gigabytes_are_refused(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(export.frozen, "_MAX_PARAMETERS", 1000)
    with pytest.raises(UserError, match=r"a file of ONNX holds at most 1,000 \(2 GiB\)"):
        export.save_onnx(encoder, tmp_path / "1.onnx", preprocessing=PREPROCESSING)

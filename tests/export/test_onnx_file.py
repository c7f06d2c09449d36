"""ONNX files, run by ONNX Runtime, against the Keras encoder with its TensorFlow preprocessing."""

import json
import re
import sys

import numpy as np
import pytest
import tensorflow as tf
from exported_files import onnx
from PIL import Image

from byol_tf import export
from byol_tf.errors import UserError
from byol_tf.images.preprocessing import Preprocessing

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
pytest.importorskip("tf2onnx", reason="the extra onnx is not installed")

SIZE = 47  # Division by a power of two would be exact.
PREPROCESSING = Preprocessing(SIZE, 0.8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def encoder(make_resnet):
    return make_resnet(SIZE)


@pytest.fixture(scope="module")
def pictures(photos):
    """Real images uint8 `[1, H, W, 3]`, as they are and enlarged to photos of other aspects."""
    sizes = [(32, 32), (97, 64), (200, 301), (20, 31)]
    return [
        np.asarray(Image.fromarray(photo).resize(sizes[i % 4], Image.Resampling.BICUBIC))[None]
        for i, photo in enumerate(photos[::4])
    ]


@pytest.fixture(scope="module")
def path(encoder, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "photos.onnx"
    export.save_onnx(encoder, path, preprocessing=PREPROCESSING, metadata={"top_1": 0.5})
    return path


def test_embeddings_equal_the_keras_encoders_on_photos_of_any_size(path, encoder, pictures):
    expected = [encoder(PREPROCESSING(photo), training=False).numpy() for photo in pictures]
    assert np.abs(expected).mean() > 0.1
    assert np.abs(np.stack(expected[1:]) - expected[0]).max(axis=-1).min() > 0.01
    for photo, embedding in zip(pictures, expected, strict=True):
        np.testing.assert_allclose(onnx(path)(photo), embedding, rtol=0, atol=TOLERANCE)


def test_a_batch_of_any_size_is_taken(path, encoder, pictures):
    batch = np.concatenate([pictures[i] for i in (0, 4, 8)])
    expected = encoder(PREPROCESSING(batch), training=False)
    np.testing.assert_allclose(onnx(path)(batch), expected, rtol=0, atol=TOLERANCE)
    assert onnx(path)(batch[:0]).shape == (0, 128)


def test_input_and_output_are_those_of_the_documented_table(path):
    row = r"\| `(\w+)`: (\w+) or uint16 `(\[.*?\])` \| `(\w+)`: (\w+) `(\[.*?\])` \|"
    ((name, dtype, shape, output, output_dtype, output_shape),) = re.findall(
        row, export.onnx_file.__doc__
    )
    session = onnxruntime.InferenceSession(str(path))
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, dtype) == (name, "tensor(uint8)", "uint8")
    assert (result.name, result.type, output_dtype) == (output, "tensor(float)", "float32")
    sizes = [size if isinstance(size, int) else None for size in given.shape]
    assert (sizes, shape) == ([None, None, None, 3], "[B, H, W, C]")
    sizes = [size if isinstance(size, int) else None for size in result.shape]
    assert (sizes, output_shape) == ([None, 128], "[B, D]")


@pytest.mark.parametrize("resize", ["bicubic", "bilinear"])
def test_the_graph_keeps_to_what_tensorrt_takes(resize, path, make_small, tmp_path):
    """No float64, uint8 only for what is cast to float at once, no operation outside of ONNX."""
    from onnx import AttributeProto, TensorProto, load

    if resize == "bilinear":
        path, preprocessing = tmp_path / "1.onnx", Preprocessing(SIZE, 0.8, resize=resize)
        export.save_onnx(make_small(SIZE), path, preprocessing=preprocessing)
    graph = load(path).graph
    first = [node for node in graph.node if "images" in node.input]
    assert [(n.op_type, n.attribute[0].i) for n in first] == [("Cast", TensorProto.FLOAT)]
    graphs = [graph] + [  # And the bodies of loops.
        a.g for n in graph.node for a in n.attribute if a.type == AttributeProto.GRAPH
    ]
    nodes = [node for one in graphs for node in one.node]
    assert {node.domain for node in nodes} <= {"", "ai.onnx"}
    values = [i for one in graphs for i in one.initializer]
    assert not [i.name for i in values if i.data_type == TensorProto.DOUBLE]
    casts = [a.i for n in nodes if n.op_type == "Cast" for a in n.attribute if a.name == "to"]
    assert casts and TensorProto.DOUBLE not in casts


def test_the_bilinear_resize_of_encoders_from_pytorch_is_inside(make_small, pictures, tmp_path):
    encoder, preprocessing = make_small(SIZE), Preprocessing(SIZE, 0.8, resize="bilinear")
    export.save_onnx(encoder, tmp_path / "1.onnx", preprocessing=preprocessing)
    run = onnx(tmp_path / "1.onnx")
    for photo in pictures:
        levels = Image.fromarray(photo[0])
        sides = [round(SIZE / 0.8) * side // min(levels.size) for side in levels.size]
        for axis in range(2):  # One direction after the other, in which versions of Pillow differ.
            size = [sides[i] if i <= axis else side for i, side in enumerate(levels.size)]
            levels = levels.resize(size, Image.Resampling.BILINEAR)
        left, top = (round((side - SIZE) / 2) for side in sides)
        square = np.asarray(levels.crop((left, top, left + SIZE, top + SIZE)))
        normalized = (square / 255 - preprocessing.mean) / preprocessing.std
        expected = encoder(normalized[None].astype(np.float32), training=False)
        np.testing.assert_allclose(run(photo), expected, rtol=0, atol=TOLERANCE)
    assert run(pictures[0][:0]).shape == (0, 12)


def test_the_card_says_what_was_compared(path, encoder):
    card = json.loads(path.with_name("photos.onnx.card.json").read_text())
    assert card["top_1"] == 0.5 and card["architecture"] == encoder.name
    assert card["format"] == "onnx" and "uint8 [B, H, W, C]" in card["input"]
    assert card["compared"]["images"] == 3 and card["compared"]["largest_difference"] < TOLERANCE
    assert {"onnxruntime", "tf2onnx", "tensorflow"} <= card["versions"].keys()


def test_a_saved_model_is_converted(pictures, make_small, tmp_path):
    saved = tmp_path / "photos" / "1"
    export.save_encoder(
        make_small(SIZE), saved, preprocessing=PREPROCESSING, metadata={"top_1": 0.6}
    )
    export.save_onnx(saved, tmp_path / "photos.onnx", images=np.concatenate(pictures[::4]))
    pixels = tf.saved_model.load(str(saved)).signatures["pixels"]
    for photo in pictures:
        expected = pixels(images=tf.constant(photo))["embedding"]
        embedding = onnx(tmp_path / "photos.onnx")(photo)
        np.testing.assert_allclose(embedding, expected, rtol=0, atol=TOLERANCE)
    card = json.loads((tmp_path / "photos.onnx.card.json").read_text())
    assert card["top_1"] == 0.6 and card["compared"]["images"] == 3 + len(pictures[::4])


def test_an_operation_that_onnx_lacks_gets_a_sentence(not_convertible, tmp_path):
    with pytest.raises(UserError, match=r"'odd' cannot be converted to ONNX \(.*Svd"):
        export.save_onnx(not_convertible, tmp_path / "1.onnx", preprocessing=Preprocessing(32))
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

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from pictures import encoded, photo
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

from byol_tf import export
from byol_tf.images.bands import encode_png
from byol_tf.images.preprocessing import Preprocessing
from pipelines.components.serving_check import checks

SIZE = 16


def example(image_bytes):
    result = tf.train.Example()
    result.features.feature["image/encoded"].bytes_list.value.append(image_bytes)
    return result.SerializeToString()


@pytest.fixture(scope="module")
def examples(images_dir):
    files = [path.read_bytes() for path in sorted(images_dir.glob("test/*/0000.jpg"))[:4]]
    other = [(photo(40, 30, 1), "PNG"), (photo(20, 90, 2), "JPEG")]
    return [*map(example, files), *(example(encoded(Image.fromarray(p), f)) for p, f in other)]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    encoder = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            keras.layers.Conv2D(8, 3, name="convolution"),
            keras.layers.GlobalAveragePooling2D(),
        ],
        name="tiny",
    )
    path = tmp_path_factory.mktemp("models") / "byol" / "1"
    export.save_encoder(encoder, path, image_size=SIZE)
    return path


@pytest.fixture
def copy(good, tmp_path):
    """Copies the good model, to be broken."""
    return shutil.copytree(good, tmp_path / "byol" / "1")


def edit_signatures(path, edit):
    saved_model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    edit(saved_model.meta_graphs[0].signature_def)
    (path / "saved_model.pb").write_bytes(saved_model.SerializeToString())


def save_again(good, path, change):
    """Makes the good model with the signatures that `change` returns for it."""
    model = tf.saved_model.load(str(good))
    signatures = dict(model.signatures)
    change(model, signatures)
    tf.saved_model.save(model, str(path), signatures=signatures)
    shutil.copytree(good / "assets.extra", path / "assets.extra")


def test_an_exported_encoder_is_fit_to_be_served(good, examples):
    assert checks.problems(str(good), examples) == []


@pytest.fixture(scope="module")
def bands(tmp_path_factory):
    """An encoder of images of five channels and 16 bits."""
    encoder = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 5)),
            keras.layers.Conv2D(8, 3),
            keras.layers.GlobalAveragePooling2D(),
        ],
        name="bands",
    )
    path = tmp_path_factory.mktemp("models") / "bands" / "1"
    preprocessing = Preprocessing(SIZE, mean=[0.5] * 5, std=[0.25] * 5, bit_depth=16)
    export.save_encoder(encoder, path, preprocessing=preprocessing)
    return path


def test_an_encoder_of_five_bands_is_fit_to_be_served_on_images_of_five(bands, examples):
    pixels = np.random.default_rng(0).integers(0, 65536, (20, 24, 5)).astype(np.uint16)
    image = encode_png(tf.constant(pixels)).numpy()
    assert checks.problems(str(bands), [example(image)] * 2) == []
    found = checks.problems(str(bands), examples)
    assert found[0] == (
        "serving_default fails on 6 images: it has 3 bands, not the 5 of config.channels"
    )


def test_pixels_of_another_type_or_depth_than_the_cards_are_found(bands, examples, tmp_path):
    path = shutil.copytree(bands, tmp_path / "byol" / "1")

    def edit(signatures):
        signatures["pixels"].inputs["images"].tensor_shape.dim[3].size = 3

    edit_signatures(path, edit)
    (problem,) = checks.problems(str(path), examples)
    assert problem == ("pixels's images is (None, None, None, 3), not uint16 [None, None, None, 5]")


@pytest.mark.parametrize("name", ["serving_default", "pixels", "examples"])
def test_a_missing_signature_is_found(copy, examples, name):
    edit_signatures(copy, lambda signatures: signatures.pop(name))
    assert checks.problems(str(copy), examples) == [f"the signature {name} is missing"]


def test_a_wrong_output_name_is_found(copy, examples):
    def edit(signatures):
        outputs = signatures["pixels"].outputs
        outputs["embeddings"].CopyFrom(outputs.pop("embedding"))

    edit_signatures(copy, edit)
    (problem,) = checks.problems(str(copy), examples)
    assert problem == "pixels gives ['embeddings'], not a float32 embedding"


def test_a_wrong_input_name_is_found(copy, examples):
    def edit(signatures):
        inputs = signatures["serving_default"].inputs
        inputs["files"].CopyFrom(inputs.pop("image_bytes"))

    edit_signatures(copy, edit)
    assert checks.problems(str(copy), examples) == [
        "serving_default takes ['files'], not image_bytes"
    ]


def test_an_input_of_one_size_only_is_found(copy, examples):
    def edit(signatures):
        shape = signatures["pixels"].inputs["images"].tensor_shape
        shape.dim[1].size = shape.dim[2].size = SIZE

    edit_signatures(copy, edit)
    (problem,) = checks.problems(str(copy), examples)
    assert problem.startswith("pixels's images is (None, 16, 16, 3), not uint8")


def test_numbers_that_are_not_finite_are_found(good, tmp_path, examples):
    def break_weights(model, signatures):
        model.weights[0].assign(tf.fill(model.weights[0].shape, np.nan))

    save_again(good, tmp_path / "1", break_weights)
    found = checks.problems(str(tmp_path / "1"), examples)
    for name in checks.contract(Preprocessing(SIZE)):
        assert any(p.startswith(f"{name} gives") and "not finite" in p for p in found)


def test_a_signature_that_disagrees_is_found(good, tmp_path, examples):
    def double_pixels(model, signatures):
        model.pixels = model.signatures["pixels"]

        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "images")])
        def pixels(images):
            return {"embedding": 2 * model.pixels(images=images)["embedding"]}

        signatures["pixels"] = pixels

    save_again(good, tmp_path / "1", double_pixels)
    found = checks.problems(str(tmp_path / "1"), examples)
    assert found and all(p.startswith("pixels differs from serving_default by") for p in found)


def test_a_signature_that_fails_on_real_images_is_found(good, tmp_path, examples):
    def one_size_only(model, signatures):
        model.pixels = model.signatures["pixels"]

        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "images")])
        def pixels(images):
            tf.debugging.assert_equal(tf.shape(images)[1], SIZE, "sixteen, please")
            return {"embedding": model.pixels(images=images)["embedding"]}

        signatures["pixels"] = pixels

    save_again(good, tmp_path / "1", one_size_only)
    found = checks.problems(str(tmp_path / "1"), examples)
    # The reason, and not what TensorFlow writes before it: "Graph execution error:".
    assert found and all(
        p.startswith("pixels fails on real images: ") and "sixteen, please" in p for p in found
    )


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damaged_variables_are_found(copy, examples, damage):
    (path,) = (copy / "variables").glob("variables.data-*")
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        content[10] ^= 1
        path.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    (problem,) = checks.problems(str(copy), examples)
    assert problem.startswith("the model does not load: ") and "\n" not in problem


@pytest.mark.parametrize("content", [None, b"", b"no SavedModel"])
def test_a_model_without_its_graph_does_not_load(copy, examples, content):
    (copy / "saved_model.pb").unlink()
    if content is not None:
        (copy / "saved_model.pb").write_bytes(content)
    (problem,) = checks.problems(str(copy), examples)
    assert problem.startswith("the model does not load: ") and "\n" not in problem


def test_missing_warm_up_requests_are_found(copy, examples):
    (copy / "assets.extra" / "tf_serving_warmup_requests").unlink()
    assert checks.problems(str(copy), examples) == ["the warm-up requests are missing"]


@pytest.mark.parametrize("keep", [0.5, 0.0])
def test_damaged_warm_up_requests_are_found(copy, examples, keep):
    path = copy / "assets.extra" / "tf_serving_warmup_requests"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))] + b"damage" * 10)
    found = checks.problems(str(copy), examples)
    assert any(p.startswith("the warm-up requests cannot be read: ") for p in found)


@pytest.mark.slow
def test_the_blessing_says_what_was_found(good, copy, examples, tmp_path):
    from tfx.v1.types import standard_artifacts

    from pipelines.components.serving_check.executor import Executor

    data = standard_artifacts.Examples()
    data.uri, data.split_names = str(tmp_path / "data"), '["train", "eval"]'
    folder = tmp_path / "data" / "Split-eval"
    folder.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / "data_tfrecord-00000-of-00001.gz"), "GZIP") as writer:
        for serialized in examples:
            writer.write(serialized)

    def bless(path, number):
        model, blessing = standard_artifacts.Model(), standard_artifacts.InfraBlessing()
        model.uri, blessing.uri = str(tmp_path / f"{number}"), str(tmp_path / f"blessing{number}")
        shutil.copytree(path, tmp_path / f"{number}" / "Format-Serving")
        inputs = {"model": [model], "examples": [data]}
        Executor().Do(inputs, {"blessing": [blessing]}, {"num_examples": 3, "code": ""})
        return (
            [path.name for path in (tmp_path / f"blessing{number}").iterdir()],
            blessing.get_int_custom_property("blessed"),
            blessing.get_json_value_custom_property("problems"),
        )

    edit_signatures(copy, lambda signatures: signatures.pop("pixels"))
    assert bless(good, 0) == (["INFRA_BLESSED"], 1, [])
    problems = ["the signature pixels is missing"]
    assert bless(copy, 1) == (["INFRA_NOT_BLESSED"], 0, problems)

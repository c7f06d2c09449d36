import io
import json
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from byol_tf import export
from byol_tf.errors import UserError
from byol_tf.images.preprocessing import Preprocessing, decode_image
from byol_tf.models import networks
from pipelines.modules.preprocessing import bound_shorter_side

SIZE = 32
TOLERANCE = 1e-5


def randomised(encoder):
    """Returns the encoder with scales and statistics unlike the initial ones, outputs near 1."""
    rng = np.random.default_rng(0)
    for weight in encoder.weights:
        if "kernel" not in weight.name:
            weight.assign(rng.uniform(0.3, 0.9, size=weight.shape))
    return encoder


def small_encoder(**convolution):
    return keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            keras.layers.Conv2D(12, 3, **convolution),
            networks.BatchNorm(),
            keras.layers.GlobalAveragePooling2D(),
        ],
        name="small",
    )


def photo(height, width, seed, file_format="JPEG"):
    """Returns a smooth random image with some noise, as a file."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    pixels = np.clip(pixels + rng.normal(0, 8, pixels.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format)
    return file.getvalue()


def example(image_bytes):
    result = tf.train.Example()
    result.features.feature["image/encoded"].bytes_list.value.append(image_bytes)
    result.features.feature["image/key"].bytes_list.value.append(b"ignored")
    return result.SerializeToString()


def read_meta_graph(path):
    saved_model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    (meta_graph,) = saved_model.meta_graphs
    return meta_graph


def embed(model, signature, values):
    (name,) = model.signatures[signature].structured_input_signature[1]
    dtype = tf.uint8 if signature == "pixels" else tf.string
    return model.signatures[signature](**{name: tf.constant(values, dtype)})["embedding"].numpy()


@pytest.fixture(scope="module")
def encoder():
    return randomised(networks.resnet(18, 0.25, SIZE, "small"))


@pytest.fixture(scope="module")
def preprocessing():
    return Preprocessing(SIZE, 0.8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


@pytest.fixture(scope="module")
def path(encoder, preprocessing, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "photos" / "1"
    export.save_encoder(encoder, path, preprocessing=preprocessing, metadata={"top_1": 0.5})
    return str(path)


@pytest.fixture(scope="module")
def model(path):
    return tf.saved_model.load(path)


@pytest.fixture(scope="module")
def files(images_dir):
    real = [file.read_bytes() for file in sorted((images_dir / "test").glob("*/0000.jpg"))]
    photos = [photo(375, 500, seed=1), photo(301, 200, seed=2), photo(768, 1024, 3, "PNG")]
    assert len(real) == 10
    return real + photos


def keras_embedding(encoder, preprocessing, image_bytes):
    image = preprocessing(decode_image(image_bytes))
    return encoder(image[tf.newaxis], training=False).numpy()[0]


def test_embeddings_equal_the_keras_encoders_on_real_files(model, encoder, preprocessing, files):
    expected = np.stack([keras_embedding(encoder, preprocessing, file) for file in files])
    embedding = embed(model, "serving_default", files)
    assert embedding.dtype == np.float32 and np.abs(expected).mean() > 0.1
    assert np.abs(expected - expected[0])[1:].max(axis=1).min() > 0.01, "images must differ"
    np.testing.assert_allclose(embedding, expected, rtol=0, atol=TOLERANCE)


def test_the_three_signatures_agree(model, files):
    embedding = embed(model, "serving_default", files)
    from_examples = embed(model, "examples", [example(file) for file in files])
    np.testing.assert_allclose(from_examples, embedding, rtol=0, atol=TOLERANCE)
    for file, expected in zip(files, embedding, strict=True):
        pixels = decode_image(file).numpy()[np.newaxis]
        result = embed(model, "pixels", pixels)
        np.testing.assert_allclose(result[0], expected, rtol=0, atol=TOLERANCE)


def test_signatures_are_those_of_the_documented_table(path):
    tensor = r"`(\w+)`: (\w+) `(\[.*?\])`"
    row = rf"^\| `(\w+)` \| {tensor} \| {tensor} \|$"
    rows = re.findall(row, export.encoder.__doc__, re.MULTILINE)
    documented = {row[0]: row[1:] for row in rows}
    assert len(documented) == 3

    def described(tensors):
        ((name, info),) = tensors.items()
        sizes = [dim.size for dim in info.tensor_shape.dim]
        return name, tf.dtypes.as_dtype(info.dtype).name, sizes

    def expected(name, dtype, shape):
        known = {"D": 128, "C": 3}
        return name, dtype, [known.get(size, -1) for size in shape[1:-1].split(", ")]

    meta_graph = read_meta_graph(pathlib.Path(path))
    assert list(meta_graph.meta_info_def.tags) == ["serve"]
    signatures = dict(meta_graph.signature_def)
    signatures.pop("__saved_model_init_op")
    assert signatures.keys() == documented.keys()
    for name, signature in signatures.items():
        assert described(signature.inputs) == expected(*documented[name][:3])
        assert described(signature.outputs) == expected(*documented[name][3:])
        assert signature.method_name == "tensorflow/serving/predict"


def test_loads_where_byol_tf_is_not_installed(path, model, files, tmp_path):
    (tmp_path / "file").write_bytes(files[0])
    code = (
        "import sys; sys.modules['byol_tf'] = None\n"
        "import tensorflow as tf, numpy as np\n"
        f"model = tf.saved_model.load({path!r})\n"
        f"file = tf.constant([open({str(tmp_path / 'file')!r}, 'rb').read()])\n"
        "embedding = model.signatures['serving_default'](image_bytes=file)['embedding']\n"
        f"np.save({str(tmp_path / 'embedding.npy')!r}, embedding.numpy())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    expected = embed(model, "serving_default", files[:1])
    np.testing.assert_allclose(np.load(tmp_path / "embedding.npy"), expected, atol=TOLERANCE)


def test_no_images_give_no_embeddings(model):
    assert embed(model, "serving_default", []).shape == (0, 128)
    assert embed(model, "examples", []).shape == (0, 128)
    assert embed(model, "pixels", np.zeros((0, 7, 9, 3))).shape == (0, 128)


def test_a_batch_of_several_parts_keeps_its_order(model, files):
    batch = [files[i % len(files)] for i in range(64 + 7)]
    embedding = embed(model, "serving_default", batch)
    alone = embed(model, "serving_default", files)
    np.testing.assert_allclose(
        embedding, [alone[i % len(files)] for i in range(71)], rtol=0, atol=TOLERANCE
    )


def test_warmup_requests_replay(path, model, encoder):
    records = list(tf.data.TFRecordDataset(f"{path}/assets.extra/tf_serving_warmup_requests"))
    assert 0 < len(records) <= 1000
    replayed = {}
    for record in records:
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        assert request.model_spec.name == "photos"
        inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        inputs = {name: tf.constant(value) for name, value in inputs.items()}
        result = model.signatures[request.model_spec.signature_name](**inputs)["embedding"]
        replayed[request.model_spec.signature_name] = result.numpy()
    assert replayed.keys() == {"serving_default", "pixels", "examples"}
    for embedding in replayed.values():
        np.testing.assert_allclose(embedding, replayed["pixels"], rtol=0, atol=TOLERANCE)


class Shrink(tf.Module):
    """A `prepare` with two resources, a table and a variable, that limit the shorter side."""

    def __init__(self):
        super().__init__()
        entry = tf.lookup.KeyValueTensorInitializer(["shrink"], [1])
        self.table = tf.lookup.StaticHashTable(entry, default_value=0)
        self.enabled = tf.Variable(1)

    def __call__(self, image_bytes):
        wanted = self.enabled * self.table.lookup(tf.constant("shrink")) > 0
        shrunk = tf.map_fn(lambda content: bound_shorter_side(content, 16), image_bytes)
        return tf.where(wanted, shrunk, image_bytes)


def test_all_signatures_go_through_prepare(encoder, preprocessing, files, tmp_path):
    export.save_encoder(
        encoder, tmp_path / "1", preprocessing=preprocessing, prepare=Shrink(), model_name="cats"
    )
    model = tf.saved_model.load(str(tmp_path / "1"))
    thumbnails = [photo(12, 40, seed=4), photo(16, 16, 5, "PNG")]  # Within the bound.
    batch = files + thumbnails
    prepared = [bound_shorter_side(file, 16).numpy() for file in batch]
    assert prepared[-2:] == thumbnails and not set(prepared) & set(files)
    expected = np.stack([keras_embedding(encoder, preprocessing, file) for file in prepared])
    embedding = embed(model, "serving_default", batch)
    np.testing.assert_allclose(embedding, expected, rtol=0, atol=TOLERANCE)
    unprepared = [keras_embedding(encoder, preprocessing, file) for file in files]
    assert np.abs(embedding[:-2] - unprepared).max(axis=1).min() > 100 * TOLERANCE

    from_examples = embed(model, "examples", [example(file) for file in batch])
    np.testing.assert_allclose(from_examples, embedding, rtol=0, atol=TOLERANCE)
    for file, row in zip(batch, embedding, strict=True):
        result = embed(model, "pixels", decode_image(file).numpy()[np.newaxis])
        np.testing.assert_allclose(result[0], row, rtol=0, atol=TOLERANCE)

    two = np.stack([decode_image(file).numpy() for file in files[:2]])
    np.testing.assert_allclose(embed(model, "pixels", two), embedding[:2], rtol=0, atol=TOLERANCE)
    for signature, nothing in (("serving_default", []), ("pixels", np.zeros((0, 7, 9, 3)))):
        assert embed(model, signature, nothing).shape == (0, 128)

    (record, *_) = tf.data.TFRecordDataset(
        str(tmp_path / "1/assets.extra/tf_serving_warmup_requests")
    )
    log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
    assert log.predict_log.request.model_spec.name == "cats"


def test_a_prepare_that_gives_no_files_is_refused(tmp_path):
    def columns(image_bytes):
        return image_bytes[:, tf.newaxis]

    with pytest.raises(UserError, match=r"prepare returns string \(1, 1\) for one image file"):
        export.save_encoder(small_encoder(), tmp_path / "1", image_size=SIZE, prepare=columns)
    assert list(tmp_path.iterdir()) == []


def test_the_card_describes_the_model(path, encoder, preprocessing):
    with open(f"{path}/assets.extra/model_card.json") as file:
        card = json.load(file)
    assert card["architecture"] == encoder.name and card["top_1"] == 0.5
    assert card["embedding_size"] == 128 and card["parameters"] == encoder.count_params()
    assert Preprocessing(**card["preprocessing"]) == preprocessing


def test_load_encoder_gives_the_encoder_back(path, encoder, preprocessing):
    loaded, loaded_preprocessing, card = export.load_encoder(path)
    assert loaded_preprocessing == preprocessing and card["top_1"] == 0.5
    images = tf.random.stateless_normal([3, SIZE, SIZE, 3], [1, 2])
    expected = encoder(images, training=False)
    np.testing.assert_allclose(loaded(images, training=False), expected, rtol=0, atol=TOLERANCE)


def test_an_encoder_trained_in_bfloat16_is_exported_in_float32(tmp_path, files):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        nested = keras.Sequential(
            [keras.Input((SIZE, SIZE, 3)), small_encoder(), keras.layers.Dense(5)]
        )
    finally:
        keras.mixed_precision.set_global_policy("float32")
    randomised(nested)
    plain = keras.Sequential([keras.Input((SIZE, SIZE, 3)), small_encoder(), keras.layers.Dense(5)])
    plain.set_weights(nested.get_weights())
    preprocessing = Preprocessing(SIZE)
    images = preprocessing.from_bytes(tf.constant(files))
    expected = plain(images, training=False).numpy()
    assert np.abs(tf.cast(nested(images), tf.float32) - expected).max() > 1e-3

    export.save_encoder(nested, tmp_path / "1", image_size=SIZE)
    embedding = embed(tf.saved_model.load(str(tmp_path / "1")), "serving_default", files)
    np.testing.assert_allclose(embedding, expected, rtol=0, atol=TOLERANCE)
    assert nested.layers[0].layers[0].compute_dtype == "bfloat16", "the original is left alone"


def test_grouped_convolutions_are_exported_without_xla(tmp_path, files):
    encoder = keras.Sequential(
        [small_encoder(groups=3), keras.layers.GroupNormalization(groups=3)]  # Has groups as well.
    )
    encoder.build((None, SIZE, SIZE, 3))
    randomised(encoder)
    export.save_encoder(encoder, tmp_path / "1", image_size=SIZE)
    for function in read_meta_graph(tmp_path / "1").graph_def.library.function:
        assert not function.attr["_XlaMustCompile"].b, function.signature.name
        assert not any(node.attr["_XlaMustCompile"].b for node in function.node_def)
    embedding = embed(tf.saved_model.load(str(tmp_path / "1")), "serving_default", files)
    expected = encoder(Preprocessing(SIZE).from_bytes(tf.constant(files)), training=False)
    np.testing.assert_allclose(embedding, expected, rtol=0, atol=TOLERANCE)


def test_a_keras_applications_encoder_is_exported(tmp_path, files):
    encoder = keras.applications.MobileNet(
        (SIZE, SIZE, 3), alpha=0.25, include_top=False, pooling="avg", weights=None
    )
    export.save_encoder(encoder, tmp_path / "1", image_size=SIZE)
    embedding = embed(tf.saved_model.load(str(tmp_path / "1")), "serving_default", files)
    expected = encoder(Preprocessing(SIZE).from_bytes(tf.constant(files)), training=False)
    np.testing.assert_allclose(embedding, expected, rtol=0, atol=TOLERANCE)


def test_an_existing_path_is_refused_and_left_alone(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "precious").write_text("kept")
    with pytest.raises(UserError, match="exists already"):
        export.save_encoder(small_encoder(), tmp_path / "1", image_size=SIZE)
    assert [file.name for file in tmp_path.rglob("*")] == ["1", "precious"]


def test_an_export_that_differs_from_the_encoder_is_not_published(tmp_path, monkeypatch):
    in_parts = export.encoder._in_parts
    monkeypatch.setattr(export.encoder, "_in_parts", lambda *arguments: in_parts(*arguments) + 0.01)
    with pytest.raises(RuntimeError, match="serving_default differs .* by up to 0.01"):
        export.save_encoder(small_encoder(), tmp_path / "1", image_size=SIZE)
    assert list(tmp_path.iterdir()) == []


def test_a_diverged_encoder_leaves_nothing_behind(tmp_path):
    encoder = small_encoder()
    encoder.weights[0].assign(tf.fill(encoder.weights[0].shape, np.nan))
    with pytest.raises(UserError, match="not finite"):
        export.save_encoder(encoder, tmp_path / "1", image_size=SIZE)
    assert list(tmp_path.iterdir()) == []


def test_encoders_that_do_not_fit_are_refused(tmp_path):
    feature_map = keras.Sequential([keras.Input((SIZE, SIZE, 3)), keras.layers.Conv2D(4, 3)])
    with pytest.raises(UserError, match=r"\(None, 30, 30, 4\), not \[B, D\]"):
        export.save_encoder(feature_map, tmp_path / "1", image_size=SIZE)
    with pytest.raises(UserError, match=r"takes images \(None, 32, 32, 3\).* 224 pixels"):
        export.save_encoder(small_encoder(), tmp_path / "1")


def test_a_path_that_cannot_be_written_gets_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export.save_encoder(small_encoder(), tmp_path / "file" / "1", image_size=SIZE)


def test_what_is_no_export_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not an encoder exported by byol_tf"):
        export.load_encoder(str(tmp_path))

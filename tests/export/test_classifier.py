"""The exported classifier against NumPy's softmax of the exported encoder's embeddings."""

import json
import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from byol_tf import export
from byol_tf.errors import UserError
from byol_tf.export.classifier import save_classifier

SIZE, D = 32, 7
CLASSES = ["cat", "dog", "ship"]


class SecondImage(tf.Module):
    """A `prepare` that replaces every file by its entry in a table, which is a resource."""

    def __init__(self, files, others):
        super().__init__()
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(files, others), default_value=""
        )

    def __call__(self, image_bytes):
        found = self.table.lookup(image_bytes)
        return tf.where(found == "", image_bytes, found)


@pytest.fixture(scope="module")
def encoder_path(tmp_path_factory):
    encoder = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            keras.layers.Conv2D(D, 5, activation="tanh"),
            keras.layers.GlobalAveragePooling2D(),
        ],
        name="small",
    )
    path = tmp_path_factory.mktemp("encoders") / "photos" / "1"
    export.save_encoder(encoder, path, image_size=SIZE, metadata={"checkpoint": "run/ckpt-3"})
    return path


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(0)
    return 5 * rng.normal(size=(D, 3)), rng.normal(size=3)


@pytest.fixture(scope="module")
def path(encoder_path, weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("classifiers") / "pets" / "4"
    save_classifier(encoder_path, *weights, CLASSES, path, metadata={"top_1": 0.8})
    return path


def example(image_bytes):
    result = tf.train.Example()
    result.features.feature["image/encoded"].bytes_list.value.append(image_bytes)
    return result.SerializeToString()


def test_probabilities_are_numpys_softmax_of_real_images(path, encoder_path, weights, images_dir):
    files = [file.read_bytes() for file in sorted(images_dir.glob("test/*/0000.jpg"))]
    pixels = [tf.io.decode_jpeg(file, dct_method="INTEGER_ACCURATE") for file in files]
    inputs = {
        "serving_default": {"image_bytes": tf.constant(files)},
        "examples": {"examples": tf.constant([example(file) for file in files])},
        "pixels": {"images": tf.stack(pixels)},
    }
    encoder = tf.saved_model.load(str(encoder_path))
    embedding = encoder.signatures["serving_default"](**inputs["serving_default"])["embedding"]
    powers = np.exp(embedding.numpy() @ weights[0] + weights[1])
    expected = powers / powers.sum(axis=1, keepdims=True)
    assert expected.shape == (10, 3) and np.ptp(expected, axis=0).min() > 0.01, "images differ"

    model = tf.saved_model.load(str(path))
    assert model.signatures.keys() == inputs.keys()
    for name, values in inputs.items():
        outputs = model.signatures[name](**values)
        assert outputs.keys() == {"probabilities"}
        probabilities = outputs["probabilities"]
        assert probabilities.dtype == tf.float32
        assert model.signatures[name].structured_outputs["probabilities"].shape == [None, 3]
        np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(np.sum(probabilities, axis=1), 1, atol=1e-6)


def test_tables_of_the_encoders_prepare_are_inside(weights, images_dir, tmp_path):
    files = [file.read_bytes() for file in sorted(images_dir.glob("test/*/0001.jpg"))]
    encoder = keras.Sequential(
        [keras.Input((SIZE, SIZE, 3)), keras.layers.Conv2D(D, 5), keras.layers.GlobalMaxPooling2D()]
    )
    prepare = SecondImage(files[:1], files[1:2])
    export.save_encoder(encoder, tmp_path / "encoder", image_size=SIZE, prepare=prepare)
    save_classifier(tmp_path / "encoder", *weights, CLASSES, tmp_path / "classifier")
    shutil.rmtree(tmp_path / "encoder")
    classify = tf.saved_model.load(str(tmp_path / "classifier")).signatures["serving_default"]
    first, second, third = classify(image_bytes=tf.constant(files[:3]))["probabilities"].numpy()
    np.testing.assert_allclose(first, second, rtol=0, atol=1e-6)
    assert np.abs(second - third).max() > 1e-3


def test_it_needs_no_encoder_beside_it(path, encoder_path, weights, tmp_path):
    os.rename(encoder_path, tmp_path / "away")
    try:
        model = tf.saved_model.load(str(path))
        image = tf.zeros([2, 9, 8, 3], tf.uint8)
        assert model.signatures["pixels"](images=image)["probabilities"].shape == (2, 3)
    finally:
        os.rename(tmp_path / "away", encoder_path)


def test_the_card_has_the_class_names_beside_what_it_says_of_the_encoder(path):
    card = json.loads((path / "assets.extra/model_card.json").read_text())
    assert card["class_names"] == CLASSES and card["top_1"] == 0.8
    assert card["embedding_size"] == D and card["checkpoint"] == "run/ckpt-3"


def test_warmup_requests_are_of_its_signatures(path):
    records = tf.data.TFRecordDataset(str(path / "assets.extra/tf_serving_warmup_requests"))
    logs = [prediction_log_pb2.PredictionLog.FromString(record.numpy()) for record in records]
    specs = [log.predict_log.request.model_spec for log in logs]
    assert {spec.signature_name for spec in specs} == {"serving_default", "pixels", "examples"}
    assert {spec.name for spec in specs} == {"pets"}


def test_what_does_not_fit_gets_a_sentence(encoder_path, path, weights, tmp_path):
    kernel, bias = weights
    new = tmp_path / "1"
    for arguments, sentence in (
        ((encoder_path, kernel[:5], bias, CLASSES), r"shape \(5, 3\).* 7 values.*\[7, C\]"),
        ((encoder_path, kernel[:, np.newaxis], bias, CLASSES), r"shape \(7, 1, 3\)"),
        ((encoder_path, kernel, bias, CLASSES[:2]), "3 classes, .* 2 class names"),
        ((encoder_path, kernel, bias[:2], CLASSES), r"3 classes, its bias the shape \(2,\)"),
        ((encoder_path, kernel * np.nan, bias, CLASSES), "not finite"),
        ((tmp_path / "none", kernel, bias, CLASSES), "none' is not an encoder exported by byol_tf"),
        ((path, kernel, bias, CLASSES), "is not an encoder exported by byol_tf"),
    ):
        with pytest.raises(UserError, match=sentence):
            save_classifier(*arguments, new)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="exists already"):
        save_classifier(encoder_path, kernel, bias, CLASSES, path)

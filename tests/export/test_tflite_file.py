"""TFLite files, run by TFLite's interpreter, against the Keras encoder."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from exported_files import cosines, tflite, tflite_runner

from byol_tf import export
from byol_tf.errors import UserError
from byol_tf.images.preprocessing import Preprocessing

SIZE = 32
PREPROCESSING = Preprocessing(SIZE, 0.8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def encoder(make_resnet):
    return make_resnet(SIZE)


@pytest.fixture(scope="module")
def path(encoder, tmp_path_factory):
    path = tmp_path_factory.mktemp("tflite") / "photos.tflite"
    export.save_tflite(encoder, path, preprocessing=PREPROCESSING, metadata={"top_1": 0.5})
    return path


def expected_embeddings(encoder, images):
    """Normalised as the documentation says, in NumPy."""
    normalized = (images / 255 - PREPROCESSING.mean) / PREPROCESSING.std
    return encoder(normalized.astype(np.float32), training=False).numpy()


def test_embeddings_equal_the_keras_encoders(path, encoder, photos):
    expected = expected_embeddings(encoder, photos)
    assert np.abs(expected).mean() > 0.1
    np.testing.assert_allclose(tflite(path)(photos), expected, rtol=0, atol=TOLERANCE)


def test_input_and_output_are_those_of_the_documented_table(path):
    row = r"\| `(\w+)`: (\w+), .*?`(\[.*?\])` \| `(\w+)`: (\w+) `(\[.*?\])` \|"
    (documented,) = re.findall(row, export.tflite_file.__doc__)
    assert documented == ("images", "uint8", "[1, S, S, C]", "embedding", "float32", "[1, D]")
    runner = tflite_runner(path)
    (given,) = runner.get_input_details().items()
    (result,) = runner.get_output_details().items()
    assert given[0] == "images" and given[1]["dtype"] == np.uint8
    assert result[0] == "embedding" and result[1]["dtype"] == np.float32
    assert given[1]["shape_signature"].tolist() == [1, SIZE, SIZE, 3]
    assert result[1]["shape_signature"].tolist() == [1, 128]


def test_litert_runs_the_same_file(path, encoder, photos):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    runner = interpreter.Interpreter(str(path)).get_signature_runner()
    embedding = runner(images=photos[:1])["embedding"]
    expected = expected_embeddings(encoder, photos[:1])
    np.testing.assert_allclose(embedding, expected, rtol=0, atol=TOLERANCE)


def test_the_card_says_what_the_caller_does(path, encoder):
    card = json.loads(path.with_name("photos.tflite.card.json").read_text())
    assert card["top_1"] == 0.5 and card["architecture"] == encoder.name
    assert "uint8 [1, S, S, C]" in card["input"] and "int(crop_fraction * shorter" in card["input"]
    assert card["preprocessing"]["crop_fraction"] == 0.8 and card["precision"] == "float32"
    assert card["compared"]["images"] == 3 and card["compared"]["largest_difference"] < TOLERANCE


def test_int8_is_smaller_and_close_and_the_card_says_how_close(path, encoder, photos, tmp_path):
    file = tmp_path / "int8.tflite"
    whole = Preprocessing(SIZE, 1.0, PREPROCESSING.mean, PREPROCESSING.std)
    export.save_tflite(encoder, file, preprocessing=whole, quantize="int8", images=photos)
    assert file.stat().st_size < 0.4 * path.stat().st_size
    card = json.loads((tmp_path / "int8.tflite.card.json").read_text())
    held_out = photos[::4]
    measured = cosines(tflite(file)(held_out), expected_embeddings(encoder, held_out))
    assert card["precision"] == "int8" and card["compared"]["images"] == len(held_out)
    np.testing.assert_allclose(card["compared"]["lowest_cosine"], measured.min(), atol=1e-5)
    np.testing.assert_allclose(card["compared"]["mean_cosine"], measured.mean(), atol=1e-5)
    assert measured.min() >= 0.99
    between = np.mean(
        [
            cosines(a, b).item()
            for i, a in enumerate(np.split(expected_embeddings(encoder, held_out), 10))
            for j, b in enumerate(np.split(expected_embeddings(encoder, held_out), 10))
            if i != j
        ]
    )
    reported = card["compared"]["mean_cosine_of_different_images"]
    np.testing.assert_allclose(reported, between, atol=1e-5)

    details = tflite_runner(file).get_input_details()["images"]
    assert details["dtype"] == np.uint8
    scale, zero_point = details["quantization"]
    np.testing.assert_allclose([scale, zero_point], [1, 0], atol=1e-6)


class AsItIs(tf.Module):
    """A `prepare` of a pipeline, which the file cannot hold, where it changes nothing."""

    def __call__(self, image_bytes):
        return image_bytes


def test_a_saved_model_is_converted(photos, make_small, tmp_path):
    saved = tmp_path / "photos" / "1"
    whole = Preprocessing(SIZE, 1.0, PREPROCESSING.mean, PREPROCESSING.std)
    export.save_encoder(make_small(SIZE), saved, preprocessing=whole, prepare=AsItIs())
    export.save_tflite(saved, tmp_path / "photos.tflite", images=photos[:3])
    pixels = tf.saved_model.load(str(saved)).signatures["pixels"]
    expected = pixels(images=tf.constant(photos))["embedding"]
    embedding = tflite(tmp_path / "photos.tflite")(photos)
    np.testing.assert_allclose(embedding, expected, rtol=0, atol=TOLERANCE)
    card = json.loads((tmp_path / "photos.tflite.card.json").read_text())
    assert "a pipeline's Transform" in card["not_inside"]


@keras.saving.register_keras_serializable("tests")
class Coarse(keras.layers.Layer):
    """Hides what is small beside one large channel, which 8 bits cannot tell from zero."""

    def call(self, images):
        means = tf.reduce_mean(images, axis=[1, 2])
        return tf.concat([means * 1e-3, tf.nn.relu(means - 2.0) * 1e3], axis=-1)

    def compute_output_shape(self, shape):
        return (shape[0], 2 * shape[-1])


def test_int8_that_is_too_far_off_is_refused_with_the_figure(photos, tmp_path):
    encoder = keras.Sequential([keras.Input((SIZE, SIZE, 3)), Coarse()], name="coarse")
    dark = np.concatenate([photos // 8, np.full_like(photos[:1], 255)])
    with pytest.raises(UserError, match=r"in int8 an image's embedding has a cosine of -?0\.\d{4}"):
        export.save_tflite(
            encoder,
            tmp_path / "1.tflite",
            preprocessing=PREPROCESSING,
            quantize="int8",
            images=dark,
        )
    assert list(tmp_path.iterdir()) == []


def test_an_operation_that_tflite_lacks_gets_a_sentence(not_convertible, tmp_path):
    with pytest.raises(UserError, match=r"'odd' cannot be converted to TFLite \(.*Svd"):
        export.save_tflite(not_convertible, tmp_path / "1.tflite", preprocessing=PREPROCESSING)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"quantize": "int4"}, "quantize is 'int4'; give int8"),
        ({"quantize": "int8"}, "int8 needs at least 16 images .* and has 0"),
        ({"quantize": "int8", "images": np.zeros((15, 8, 8, 3), np.uint8)}, "and has 15"),
    ],
)
def test_bad_arguments_get_a_sentence(arguments, sentence, encoder, tmp_path):
    with pytest.raises(UserError, match=sentence):
        export.save_tflite(encoder, tmp_path / "1.tflite", preprocessing=PREPROCESSING, **arguments)
    with pytest.raises(UserError, match="does not end with .tflite"):
        export.save_tflite(encoder, tmp_path / "1", preprocessing=PREPROCESSING, **arguments)
    assert list(tmp_path.iterdir()) == []

import keras
import numpy as np
import pytest
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.evaluation import features
from byol_tf.evaluation.features import Features


def dataset(images, labels=None, batch_size=4):
    labels = np.arange(len(images), dtype=np.int32) if labels is None else labels
    keys = np.array([f"image {i}".encode() for i in range(len(images))])
    return tf.data.Dataset.from_tensor_slices((images, labels, keys)).batch(batch_size)


def pooled(*layers, dtype=None):
    model = keras.Sequential(
        [keras.Input((6, 6, 3)), *layers, keras.layers.GlobalAveragePooling2D(dtype=dtype)]
    )
    return model


def images(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 6, 6, 3)).astype(np.float32)


def test_features_are_the_encoders_output_in_order_with_a_short_last_batch():
    x = images(10)
    result = features.extract(pooled(), dataset(x, batch_size=4))
    np.testing.assert_allclose(result.representations, x.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    assert result.labels.tolist() == list(range(10)) and result.labels.dtype == np.int32
    assert result.keys.tolist() == [f"image {i}".encode() for i in range(10)]


def test_the_encoder_runs_in_inference_mode():
    encoder = pooled(keras.layers.BatchNormalization(), keras.layers.Dropout(0.5))
    before = [weight.numpy() for weight in encoder.weights]
    x = 5 + images(8)
    result = features.extract(encoder, dataset(x))
    expected = (x / np.sqrt(1 + 1e-3)).mean(axis=(1, 2))  # Moving mean 0, variance 1, eps 1e-3.
    np.testing.assert_allclose(result.representations, expected, rtol=1e-5)
    for weight, old in zip(encoder.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_a_bfloat16_encoder_gives_float32_features():
    encoder = pooled(keras.layers.Conv2D(8, 3, dtype="mixed_bfloat16"), dtype="mixed_bfloat16")
    assert tf.as_dtype(encoder.outputs[0].dtype) == tf.bfloat16
    result = features.extract(encoder, dataset(images(4)))
    assert result.representations.dtype == np.float32


def test_the_encoder_is_traced_once():
    traces = []

    def encode(x, training):
        traces.append(x.shape)
        return tf.reduce_mean(x, [1, 2])

    features.extract(encode, dataset(images(11), batch_size=4))
    assert len(traces) == 1


def test_a_feature_map_is_refused():
    encoder = keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Conv2D(8, 3)])
    with pytest.raises(UserError, match=r"\(None, 4, 4, 8\), not \[B, D\]; end it with global"):
        features.extract(encoder, dataset(images(4)))


def test_nan_representations_name_the_image():
    x = images(8)
    x[5, 2, 2, 1] = np.nan
    with pytest.raises(UserError, match=r"1 of 8 images are not finite \(first: image 5\)"):
        features.extract(pooled(), dataset(x))


def test_an_empty_data_set_is_refused():
    with pytest.raises(UserError, match="no images"):
        features.extract(pooled(), dataset(images(4)).take(0))


def make(keys):
    keys = np.array([key.encode() for key in keys], object)
    numbers = np.array([ord(key[-1:]) for key in keys], np.float32)
    return Features(numbers[:, np.newaxis], numbers.astype(np.int32), keys)


def test_align_keeps_what_all_passes_have():
    aligned = features.align([make("abcd"), make("acd"), make("abd")])
    for part in aligned:
        assert part.keys.tolist() == [b"a", b"d"]
        assert part.labels.tolist() == [ord("a"), ord("d")]
        assert part.representations[:, 0].tolist() == [ord("a"), ord("d")]


def test_align_refuses_to_guess_between_equal_keys():
    with pytest.raises(UserError, match="same key"):
        features.align([make("aab"), make("ab")])


def test_unlabelled_examples_are_named():
    unlabelled = Features(np.zeros((2, 1), np.float32), np.array([0, -1]), np.array([b"a", b"b"]))
    with pytest.raises(UserError, match=r"1 of the 2 test examples have no label \(first: b\)"):
        features.check_labelled(unlabelled, "test")

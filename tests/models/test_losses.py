"""The loss against NumPy written from equation 2."""

import numpy as np
import pytest
import tensorflow as tf

from byol_tf.models import losses


def numpy_loss(q, z):
    q = q / np.linalg.norm(q, axis=1, keepdims=True)
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    return ((q - z) ** 2).sum(axis=1)


@pytest.fixture
def vectors():
    return np.random.default_rng(0).normal(size=(4, 16, 8)).astype("float32") * 3


def test_regression_loss_is_the_distance_of_unit_vectors(vectors):
    q, z = vectors[:2]
    np.testing.assert_allclose(losses.regression_loss(q, z), numpy_loss(q, z), rtol=1e-5)


def test_regression_loss_is_two_minus_twice_the_cosine(vectors):
    q, z = vectors[:2]
    cosine = (q * z).sum(1) / np.linalg.norm(q, axis=1) / np.linalg.norm(z, axis=1)
    np.testing.assert_allclose(losses.regression_loss(q, z), 2 - 2 * cosine, rtol=1e-5)


def test_symmetric_loss_pairs_each_view_with_the_other_and_takes_the_mean(vectors):
    q1, q2, z1, z2 = vectors
    expected = (numpy_loss(q1, z2) + numpy_loss(q2, z1)).mean()
    np.testing.assert_allclose(losses.symmetric_loss(q1, z2, q2, z1), expected, rtol=1e-5)


def test_loss_is_near_two_for_random_directions():
    q, z = np.random.default_rng(1).normal(size=(2, 4000, 64)).astype("float32")
    assert np.mean(losses.regression_loss(q, z)) == pytest.approx(2, abs=0.02)


def test_loss_is_computed_in_float32_from_half_precision(vectors):
    q, z = (tf.cast(v, tf.bfloat16) for v in vectors[:2])
    loss = losses.regression_loss(q, z)
    assert loss.dtype == tf.float32
    expected = numpy_loss(tf.cast(q, tf.float64).numpy(), tf.cast(z, tf.float64).numpy())
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_zero_vector_gives_a_finite_loss_and_gradient(vectors):
    q = tf.zeros([2, 8])
    with tf.GradientTape() as tape:
        tape.watch(q)
        loss = losses.regression_loss(q, vectors[0][:2])
    np.testing.assert_allclose(loss, [1, 1], rtol=1e-5)
    assert np.isfinite(tape.gradient(loss, q)).all()

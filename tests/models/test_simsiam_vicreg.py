"""SimSiam and VICReg against NumPy written from their papers' algorithms, and as methods."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.models import losses, networks
from byol_tf.models.simsiam import SimSiam
from byol_tf.models.vicreg import VICReg

METHODS = [SimSiam, VICReg]


def encoder():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(8, 3, 2, use_bias=False),
            networks.BatchNorm(),
            keras.layers.GlobalAveragePooling2D(dtype="float32"),
        ]
    )


def make_model(method, **options):
    options = {"projection_size": 8, "hidden_size": 64, "total_steps": 40} | options
    model = method(encoder(), **options)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    return model


def batch(size=16):
    return tuple(np.random.default_rng(0).normal(size=(2, size, 8, 8, 3)).astype("float32"))


def numpy_vicreg(z_a, z_b, weights):
    """Algorithm 1 in loops, with the authors' code's mean of the two variance terms."""
    z_a, z_b = z_a.astype(np.float64), z_b.astype(np.float64)
    count, size = z_a.shape
    similarity = sum((z_a[i, j] - z_b[i, j]) ** 2 for i in range(count) for j in range(size))
    hinges, covariances = [], []
    for z in (z_a, z_b):
        deviations = np.sqrt(z.var(axis=0, ddof=1) + 1e-4)
        hinges.append(np.mean(np.maximum(0, 1 - deviations)))
        matrix = np.cov(z, rowvar=False)
        others = [matrix[i, j] ** 2 for i in range(size) for j in range(size) if i != j]
        covariances.append(sum(others) / size)
    terms = similarity / (count * size), np.mean(hinges), sum(covariances)
    return sum(weight * term for weight, term in zip(weights, terms, strict=True))


@pytest.mark.parametrize("weights", [(25, 25, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_vicreg_loss_is_algorithm_1(weights):
    z = np.random.default_rng(0).normal(size=(2, 12, 5)).astype("float32")
    z *= np.linspace(0.3, 2, 5, dtype="float32")  # Deviations below and above the hinge.
    actual = losses.vicreg_loss(*z, *weights)
    np.testing.assert_allclose(actual, numpy_vicreg(*z, weights), rtol=1e-5)


def test_vicreg_loss_is_in_float32_and_its_gradient_finite_in_a_collapse():
    same = tf.Variable(tf.ones([8, 4]))
    with tf.GradientTape() as tape:
        loss = losses.vicreg_loss(tf.cast(same, tf.bfloat16), tf.cast(same, tf.bfloat16), 25, 25, 1)
    assert loss.dtype == tf.float32
    np.testing.assert_allclose(loss, 25 * 0.99, rtol=1e-5)
    assert np.isfinite(tape.gradient(loss, same)).all()


def test_vicreg_of_two_replicas_is_that_of_one_device_in_value_and_gradient(two_replicas):
    z = np.random.default_rng(0).normal(size=(2, 12, 5)).astype("float32")
    with tf.GradientTape() as tape:
        whole_z = [tf.constant(part) for part in z]
        tape.watch(whole_z)
        whole = losses.vicreg_loss(*whole_z, 25, 25, 1)
    wanted = tape.gradient(whole, whole_z)

    def step(parts):
        with tf.GradientTape() as tape:
            tape.watch(parts)
            loss = losses.vicreg_loss(*parts, 25, 25, 1) / 2  # As TwoViewModel weighs a replica.
        return loss, tape.gradient(loss, parts)

    def part(context):
        rows = slice(6 * context.replica_id_in_sync_group, 6 * context.replica_id_in_sync_group + 6)
        return [tf.constant(view[rows]) for view in z]

    values = two_replicas.experimental_distribute_values_from_function(part)
    loss, gradients = tf.function(lambda v: two_replicas.run(step, (v,)))(values)
    np.testing.assert_allclose(sum(two_replicas.experimental_local_results(loss)), whole, rtol=1e-5)
    for gradient, whole_gradient in zip(gradients, wanted, strict=True):
        actual = np.concatenate(two_replicas.experimental_local_results(gradient))
        np.testing.assert_allclose(actual, whole_gradient, atol=1e-5)


def test_simsiam_loss_is_algorithm_1_plus_one():
    model = make_model(SimSiam)
    views = batch()

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    z = [model.projector(model.encoder(view)) for view in views]
    p_1, p_2 = (unit(model.predictor(projection).numpy()) for projection in z)
    z_1, z_2 = (unit(projection.numpy()) for projection in z)
    wanted = -(p_1 * z_2).sum(1).mean() / 2 - (p_2 * z_1).sum(1).mean() / 2
    np.testing.assert_allclose(model.forward(*views, training=False).loss, 1 + wanted, rtol=1e-5)


def test_simsiam_takes_the_other_projections_as_constants():
    model = make_model(SimSiam)
    views = batch()
    constants = [model.projector(model.encoder(view)).numpy() for view in views]
    z_1, z_2 = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in constants)
    weights = model.encoder.trainable_weights + model.projector.trainable_weights
    with tf.GradientTape() as tape:
        p_1, p_2 = (model.predictor(model.projector(model.encoder(view))) for view in views)
        cosines = keras.losses.cosine_similarity
        loss = tf.reduce_mean(cosines(p_1, z_2) + cosines(p_2, z_1)) / 2
    wanted = tape.gradient(loss, weights)
    with tf.GradientTape() as tape:
        loss = model.forward(*views, training=False).loss
    for actual, gradient in zip(tape.gradient(loss, weights), wanted, strict=True):
        np.testing.assert_allclose(actual, gradient, atol=1e-6)


def test_simsiam_has_the_papers_heads():
    model = SimSiam(encoder(), total_steps=1)

    def shapes(network):
        return [tuple(w.shape) for w in network.weights if len(w.shape) == 2]

    assert shapes(model.projector) == [(8, 2048), (2048, 2048), (2048, 2048)]
    assert shapes(model.predictor) == [(2048, 512), (512, 2048)]
    last = model.projector.layers[-1]
    assert isinstance(last, networks.BatchNorm) and not last.trainable_weights


@pytest.mark.parametrize("method", METHODS)
def test_training_pulls_the_views_together_and_keeps_them_spread(method, tmp_path):
    images = batch()[0]
    noise = 0.3 * np.random.default_rng(1).normal(size=images.shape).astype("float32")
    model = make_model(method)
    logs = [model.train_on_batch((images, images + noise), return_dict=True) for _ in range(30)]
    assert logs[-1]["loss"] < 0.8 * logs[0]["loss"] and logs[-1]["projection_std"] > 0.3
    assert "ema" not in logs[-1]
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    assert type(copy) is method
    for field in method.CONFIG_FIELDS:
        assert getattr(copy, field) == getattr(model, field)
    for actual, wanted in zip(copy.weights, model.weights, strict=True):
        np.testing.assert_array_equal(actual, wanted)


@pytest.mark.parametrize("name", ["invariance", "variance", "covariance"])
def test_weights_out_of_range_are_named(name):
    with pytest.raises(UserError, match=f"{name}_weight is -1; give a value of 0 or more"):
        make_model(VICReg, **{f"{name}_weight": -1})

"""SimCLR's loss against NumPy written from its equation 1, and the model beside BYOL."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.models import losses, networks, optimizers
from byol_tf.models.byol import BYOL
from byol_tf.models.simclr import SimCLR


def numpy_nt_xent(z_1, z_2, temperature):
    """Computes equation 1 in loops, the mean over all positive pairs.

    ℓ(i, j) = -log exp(s_ij / t) / Σ_{k ≠ i} exp(s_ik / t)
    """
    z = np.concatenate([z_1, z_2]).astype(np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    count = len(z_1)
    total = 0.0
    for i in range(2 * count):
        j = (i + count) % (2 * count)
        others = sum(np.exp(z[i] @ z[k] / temperature) for k in range(2 * count) if k != i)
        total -= np.log(np.exp(z[i] @ z[j] / temperature) / others)
    return total / (2 * count)


@pytest.fixture
def projections():
    return np.random.default_rng(0).normal(size=(2, 12, 5)).astype("float32") * 3


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent_is_equation_1(projections, temperature):
    actual = losses.nt_xent_loss(*projections, temperature)
    np.testing.assert_allclose(actual, numpy_nt_xent(*projections, temperature), rtol=1e-5)


def test_nt_xent_of_equal_projections_is_the_log_of_the_number_of_candidates():
    same = tf.ones([8, 4])
    np.testing.assert_allclose(losses.nt_xent_loss(same, same, 0.3), np.log(15), rtol=1e-6)


def test_nt_xent_is_in_float32_and_finite_for_zero_vectors():
    half = tf.zeros([4, 8], tf.float16)
    loss = losses.nt_xent_loss(half, half, 0.1)
    assert loss.dtype == tf.float32 and np.isfinite(loss)


def test_replicas_are_each_others_negatives_in_value_and_gradient(projections, two_replicas):
    """Two replicas of 6 images give the loss and the gradient of one device with 12."""
    with tf.GradientTape() as tape:
        z = [tf.constant(part) for part in projections]
        tape.watch(z)
        whole = losses.nt_xent_loss(*z, 0.5)
    wanted = tape.gradient(whole, z)

    def step(parts):
        with tf.GradientTape() as tape:
            tape.watch(parts)
            loss = losses.nt_xent_loss(*parts, 0.5) / 2
        return loss, tape.gradient(loss, parts)

    def part(context):
        rows = slice(6 * context.replica_id_in_sync_group, 6 * context.replica_id_in_sync_group + 6)
        return [tf.constant(view[rows]) for view in projections]

    values = two_replicas.experimental_distribute_values_from_function(part)
    loss, gradients = tf.function(lambda v: two_replicas.run(step, (v,)))(values)
    np.testing.assert_allclose(sum(two_replicas.experimental_local_results(loss)), whole, rtol=1e-5)
    for gradient, whole_gradient in zip(gradients, wanted, strict=True):
        actual = np.concatenate(two_replicas.experimental_local_results(gradient))
        np.testing.assert_allclose(actual, whole_gradient, atol=1e-6)


def encoder():
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(8, 3, 2, use_bias=False),
            networks.BatchNorm(),
            keras.layers.ReLU(),
            keras.layers.GlobalAveragePooling2D(dtype="float32"),
        ]
    )


def make_model(**kwargs):
    model = SimCLR(
        encoder(), **({"total_steps": 10, "projection_size": 8, "hidden_size": 16} | kwargs)
    )
    model.compile(optimizers.LARS(0.5, trust_coefficient=0.02))
    return model


def batch(size=16, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=(2, size, 16, 16, 3)).astype("float32"))


def test_training_pulls_the_views_of_an_image_together():
    images = batch()[0]
    noise = 0.3 * np.random.default_rng(1).normal(size=images.shape).astype("float32")
    model = make_model(temperature=0.5)
    losses_ = [model.train_on_batch((images, images + noise)) for _ in range(30)]
    assert np.isfinite(losses_).all()
    logs = [model.train_on_batch((images, images + noise), return_dict=True) for _ in range(2)][-1]
    assert logs["loss"] < 0.7 * np.log(31) and "ema" not in logs and logs["projection_std"] > 0.3


def test_micro_batches_never_meet_and_their_gradients_are_averaged():
    """A step on two micro-batches uses the mean of two gradients, each of half the batch alone."""
    views = batch(12)
    models = []
    for parts in (2, 1, 1):
        keras.utils.set_random_seed(3)
        model = SimCLR(
            encoder(), total_steps=10, projection_size=8, hidden_size=16, micro_batches=parts
        )
        model.compile(keras.optimizers.SGD(1.0))
        models.append(model)
    whole, *halves = models
    before = [weight.numpy() for weight in whole.trainable_weights]
    whole.train_on_batch(views)
    for rows, half in zip((slice(0, 6), slice(6, 12)), halves, strict=True):
        half.train_on_batch(tuple(view[rows] for view in views))
    for start, weight, *parts in zip(
        before, *(model.trainable_weights for model in models), strict=True
    ):
        mean_step = sum(part.numpy() - start for part in parts) / 2
        np.testing.assert_allclose(weight.numpy() - start, mean_step, atol=1e-5)


def test_a_batch_that_cannot_be_cut_is_refused():
    model = make_model(micro_batches=5)
    with pytest.raises(ValueError, match="batch of 16 cannot be cut into 5 equal micro_batches"):
        model.train_on_batch(batch())


def test_saved_model_file_restores_weights_and_config(tmp_path):
    model = make_model(temperature=0.2, num_classes=3, micro_batches=2)
    model.train_on_batch(batch(), np.arange(16) % 3)
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(copy, SimCLR)
    for field in ("temperature", "micro_batches", "num_classes", "projection_size", "total_steps"):
        assert getattr(copy, field) == getattr(model, field)
    for actual, wanted in zip(copy.weights, model.weights, strict=True):
        np.testing.assert_array_equal(actual, wanted)


@pytest.mark.parametrize(
    "kwargs, sentence",
    [
        ({"temperature": 0.0}, "temperature is 0.0; give a number above 0"),
        ({"micro_batches": 0}, "micro_batches is 0; give a whole number"),
        ({"total_steps": 0}, "total_steps is 0"),
    ],
)
def test_arguments_out_of_range_are_named(kwargs, sentence):
    with pytest.raises(UserError, match=sentence):
        make_model(**kwargs)


@pytest.mark.parametrize("views", [1, 3])
def test_a_batch_that_is_not_two_views_is_refused_by_the_methods_name(views):
    with pytest.raises(ValueError, match="SimCLR's batch is not two views"):
        make_model()._unpack(((batch()[0],) * views,))


def test_without_predictor_the_projection_itself_meets_the_target():
    views = batch(8)
    model = BYOL(encoder(), total_steps=10, projection_size=8, hidden_size=16, predictor=False)
    forward = model.forward(*views, training=False)

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    # The target is still a copy: both sides are the projector's.
    z_1, z_2 = (unit(model.projector(model.encoder(view)).numpy()) for view in views)
    np.testing.assert_allclose(forward.loss, 2 * ((z_1 - z_2) ** 2).sum(axis=1).mean(), rtol=1e-5)


def test_a_constant_decay_stays_where_it_is():
    model = BYOL(
        encoder(), total_steps=4, base_ema=0.9, constant_ema=True, projection_size=8, hidden_size=16
    )
    model.compile(keras.optimizers.SGD(0.1))
    decays = [model.train_on_batch(batch(8, seed), return_dict=True)["ema"] for seed in range(3)]
    np.testing.assert_allclose(decays, 0.9, rtol=1e-6)

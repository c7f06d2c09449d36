"""Optimizers against NumPy trajectories written from the formulas, and in use in Keras."""

import keras
import ml_collections
import numpy as np
import pytest
import tensorflow as tf

from byol_tf import keras_compat
from byol_tf.configs import cifar10
from byol_tf.errors import UserError
from byol_tf.models import losses, optimizers, schedules

DECAY, MOMENTUM, TRUST = 0.01, 0.9, 0.02


def numpy_lars(weights, gradients, rates):
    """Returns the final weights; `weights` and each of `gradients` are lists of arrays."""
    weights = [w.astype(np.float64) for w in weights]
    buffers = [np.zeros_like(w) for w in weights]
    for step_gradients, rate in zip(gradients, rates, strict=True):
        for i, g in enumerate(step_gradients):
            u = g.astype(np.float64)
            if weights[i].ndim > 1:
                u = u + DECAY * weights[i]
                norms = np.sqrt((weights[i] ** 2).sum()), np.sqrt((u**2).sum())
                if norms[0] > 0 and norms[1] > 0:
                    u = u * TRUST * norms[0] / norms[1]
            buffers[i] = MOMENTUM * buffers[i] + u
            weights[i] = weights[i] - rate * buffers[i]
    return weights


def lars(rate=0.5, **kwargs):
    return optimizers.LARS(rate, DECAY, MOMENTUM, TRUST, **kwargs)


@pytest.fixture
def problem():
    """A kernel, a convolution, a bias and a scale, with six steps of gradients."""
    rng = np.random.default_rng(0)
    shapes = [(5, 7), (3, 3, 2, 4), (7,), ()]
    weights = [rng.normal(size=s).astype("float32") for s in shapes]
    gradients = [[rng.normal(size=s).astype("float32") for s in shapes] for _ in range(6)]
    return weights, gradients


def run(optimizer, weights, gradients, jit=False):
    variables = [tf.Variable(w) for w in weights]
    optimizer.build(variables)

    @tf.function(jit_compile=jit)
    def step(grads):
        optimizer.apply_gradients(zip(grads, variables, strict=True))

    for grads in gradients:
        step([tf.constant(g) for g in grads])
    return [v.numpy() for v in variables]


@pytest.mark.parametrize("jit", [False, True])
def test_trajectory_with_a_changing_rate_equals_numpy(problem, jit):
    weights, gradients = problem
    schedule = schedules.WarmupCosine(0.5, 2, 6)
    expected = numpy_lars(weights, gradients, [float(schedule(k)) for k in range(6)])
    for actual, wanted in zip(run(lars(schedule), weights, gradients, jit), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=2e-5, atol=1e-6)


def test_zero_weights_and_zero_gradients_are_not_scaled():
    zero_weight, zero_gradient = np.zeros((2, 3), "float32"), np.zeros((2, 3), "float32")
    weights = [zero_weight, np.zeros((2, 3), "float32")]
    gradients = [[np.ones((2, 3), "float32"), zero_gradient]] * 2
    expected = numpy_lars(weights, gradients, [0.5, 0.5])
    actual = run(lars(), weights, gradients)
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5)
    np.testing.assert_array_equal(actual[1], 0)
    # The first step moved the zero weight by the whole gradient: factor 1, not 0.
    np.testing.assert_allclose(run(lars(), weights, gradients[:1])[0], -0.5)


def test_biases_get_plain_momentum(problem):
    weights, gradients = problem
    bias, buffer = weights[2].astype(np.float64), 0
    for step_gradients in gradients:
        buffer = MOMENTUM * buffer + step_gradients[2]
        bias = bias - 0.5 * buffer
    np.testing.assert_allclose(run(lars(), weights, gradients)[2], bias, rtol=1e-5, atol=1e-6)


def test_accumulated_gradients_give_the_step_of_their_mean(problem):
    weights, gradients = problem
    variables = [tf.Variable(w) for w in weights]
    accumulators = [tf.Variable(tf.zeros_like(v)) for v in variables]
    optimizer = lars()
    for first in (0, 2, 4):  # Two micro-batches a step.
        for accumulator in accumulators:
            accumulator.assign(tf.zeros_like(accumulator))
        for micro_batch in gradients[first : first + 2]:
            for accumulator, g in zip(accumulators, micro_batch, strict=True):
                accumulator.assign_add(g / 2)
        optimizer.apply_gradients(zip(accumulators, variables, strict=True))
    means = [[(a + b) / 2 for a, b in zip(*gradients[k : k + 2], strict=True)] for k in (0, 2, 4)]
    for actual, wanted in zip(variables, numpy_lars(weights, means, [0.5] * 3), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-6)


def test_slots_are_restored_from_a_checkpoint(problem, tmp_path):
    weights, gradients = problem
    variables, optimizer = [tf.Variable(w) for w in weights], lars()
    for grads in gradients[:3]:
        optimizer.apply_gradients(zip(map(tf.constant, grads), variables, strict=True))
    path = tf.train.Checkpoint(optimizer=optimizer, variables=variables).save(tmp_path / "c")

    variables, optimizer = [tf.Variable(tf.zeros_like(w)) for w in weights], lars()
    optimizer.build(variables)
    checkpoint = tf.train.Checkpoint(optimizer=optimizer, variables=variables)
    checkpoint.restore(path).assert_existing_objects_matched()
    assert int(optimizer.iterations) == 3
    for grads in gradients[3:]:
        optimizer.apply_gradients(zip(map(tf.constant, grads), variables, strict=True))
    for actual, wanted in zip(variables, numpy_lars(weights, gradients, [0.5] * 6), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-6)


def test_loss_scale_leaves_the_trajectory_alone_and_skips_overflow(problem):
    weights, gradients = problem
    variables = [tf.Variable(w) for w in weights]
    optimizer = keras.mixed_precision.LossScaleOptimizer(lars(), dynamic=True, initial_scale=1024.0)

    optimizer.build(variables)

    def minimize(grads):
        with tf.GradientTape() as tape:
            loss = sum(tf.reduce_sum(g * v) for g, v in zip(grads, variables, strict=True))
        scaled = keras_compat.compute_gradients(optimizer, loss, variables, tape)
        keras_compat.apply_gradients(optimizer, scaled, variables)

    for grads in gradients[:2]:
        minimize(grads)
    wanted = numpy_lars(weights, gradients[:2], [0.5] * 2)
    for actual, w in zip(variables, wanted, strict=True):
        np.testing.assert_allclose(actual, w, rtol=1e-4, atol=1e-5)
    before = [v.numpy() for v in variables]
    minimize([np.full(w.shape, np.inf, "float32") for w in weights])
    for actual, w in zip(variables, before, strict=True):
        np.testing.assert_array_equal(actual, w)
    # Keras 2 calls it loss_scale, Keras 3 dynamic_scale.
    name = "dynamic_scale" if hasattr(optimizer, "dynamic_scale") else "loss_scale"
    assert float(getattr(optimizer, name)) == 512.0


def test_gradients_of_two_replicas_are_summed_before_the_trust_ratio(problem, two_replicas):
    weights, gradients = problem
    strategy = two_replicas
    with strategy.scope():
        variables = [tf.Variable(w) for w in weights]
        optimizer = lars()

    @tf.function
    def step(grads):
        def replica(share):
            optimizer.apply_gradients(
                [(g * share, v) for g, v in zip(grads, variables, strict=True)]
            )

        shares = strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant([0.25, 0.75][context.replica_id_in_sync_group])
        )
        strategy.run(replica, (shares,))

    with strategy.scope():
        optimizer.build(variables)
    for grads in gradients:
        step([tf.constant(g) for g in grads])
    for actual, wanted in zip(variables, numpy_lars(weights, gradients, [0.5] * 6), strict=True):
        np.testing.assert_allclose(actual.numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_config_round_trip_keeps_every_argument():
    optimizer = lars(schedules.WarmupCosine(0.3, 5, 50), clip=True, clipnorm=1.0, name="mine")
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(copy, optimizers.LARS)
    assert copy.get_config() == optimizer.get_config()
    assert copy.coupled_weight_decay == DECAY and copy.momentum == MOMENTUM
    assert copy.trust_coefficient == TRUST and copy.clip and copy.clipnorm == 1.0


@pytest.mark.parametrize(
    "kwargs, named",
    [
        ({"weight_decay": -1}, "weight_decay"),
        ({"momentum": 1.0}, "momentum"),
        ({"trust_coefficient": 0}, "trust"),
    ],
)
def test_bad_values_are_named(kwargs, named):
    with pytest.raises(UserError, match=named):
        optimizers.LARS(0.1, **kwargs)


def settings(name):
    return ml_collections.ConfigDict(
        {
            "optimizer": {
                "name": name,
                "weight_decay": 0.01,
                "momentum": 0.9,
                "trust_coefficient": 0.1,
                "clip": False,
            }
        }
    )


def numpy_lamb(weights, gradients, rates, decay=0.01, beta_1=0.9, beta_2=0.999, epsilon=1e-6):
    """Algorithm 2 of arXiv 1904.00962 with φ the identity; biases without decay and ratio."""
    weights = [w.astype(np.float64) for w in weights]
    m, v = ([np.zeros_like(w) for w in weights] for _ in range(2))
    for t, (step_gradients, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        for i, g in enumerate(step_gradients):
            m[i] = beta_1 * m[i] + (1 - beta_1) * g
            v[i] = beta_2 * v[i] + (1 - beta_2) * np.square(g, dtype=np.float64)
            update = m[i] / (1 - beta_1**t) / (np.sqrt(v[i] / (1 - beta_2**t)) + epsilon)
            ratio = 1.0
            if weights[i].ndim > 1:
                update = update + decay * weights[i]
                norms = np.sqrt((weights[i] ** 2).sum()), np.sqrt((update**2).sum())
                ratio = norms[0] / norms[1] if norms[0] > 0 and norms[1] > 0 else 1.0
            weights[i] = weights[i] - rate * ratio * update
    return weights


@pytest.mark.parametrize("zero", [False, True])
def test_lamb_equals_its_formula(problem, zero):
    weights, gradients = problem
    if zero:
        weights = [np.zeros_like(w) for w in weights]
    schedule = schedules.WarmupCosine(0.5, 2, 6)
    optimizer = optimizers.build_optimizer(settings("lamb"), schedule)
    names = ("kernel", "kernel", "bias", "gamma")
    variables = [tf.Variable(w, name=n) for w, n in zip(weights, names, strict=True)]
    for grads in gradients:
        optimizer.apply_gradients(zip(map(tf.constant, grads), variables, strict=True))
    expected = numpy_lamb(weights, gradients, [float(schedule(k)) for k in range(6)])
    for actual, wanted in zip(variables, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=2e-5, atol=2e-6)


def numpy_larc(weights, gradients, rates, decay=1e-5):
    """The step of solo-learn's `solo/utils/lars.py` with clip_lars_lr and exclude_bias_n_norm_lars.

    Its divisor is ‖g‖ + λ‖w‖, ours ‖g + λ w‖: at solo-learn's λ the two differ by less than 1e-4.
    """
    weights = [w.astype(np.float64) for w in weights]
    buffers = [np.zeros_like(w) for w in weights]
    for step_gradients, rate in zip(gradients, rates, strict=True):
        for i, g in enumerate(step_gradients):
            d_p, w = g.astype(np.float64), weights[i]
            if w.ndim > 1:
                p_norm, g_norm = np.sqrt((w**2).sum()), np.sqrt((d_p**2).sum())
                ratio = TRUST * p_norm / (g_norm + decay * p_norm + 1e-8)
                ratio = min(ratio / rate, 1) if rate else 1.0
                d_p = (d_p + decay * w) * ratio
            buffers[i] = MOMENTUM * buffers[i] + d_p
            weights[i] = w - rate * buffers[i]
    return weights


@pytest.mark.parametrize("jit", [False, True])
def test_clipped_lars_is_solo_learns_larc_whether_it_caps_or_not(problem, jit):
    weights, gradients = problem
    scales = (9, 9, 9, 0.01, 0.01, 1)
    gradients = [
        [np.float32(scale) * np.asarray(g, np.float32) for g in step]
        for step, scale in zip(gradients, scales, strict=True)
    ]
    schedule = schedules.WarmupCosine(0.5, 2, 6)
    expected = numpy_larc(weights, gradients, [float(schedule(k)) for k in range(6)])
    optimizer = optimizers.LARS(schedule, 1e-5, MOMENTUM, TRUST, clip=True)
    for actual, wanted in zip(run(optimizer, weights, gradients, jit), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-6)
    unclipped = run(optimizers.LARS(schedule, 1e-5, MOMENTUM, TRUST), weights, gradients)
    assert np.abs(unclipped[0] - expected[0]).max() > 1e-3  # The cap was reached.


def test_sgd_is_pytorchs_with_a_changing_rate_and_no_decay_of_biases(problem):
    weights, gradients = problem
    schedule = schedules.WarmupCosine(0.5, 2, 6)
    expected = [w.astype(np.float64) for w in weights]
    buffers = [np.zeros_like(w) for w in expected]
    for k, step_gradients in enumerate(gradients):
        for i, g in enumerate(step_gradients):
            d_p = g + (0.01 * expected[i] if expected[i].ndim > 1 else 0)
            buffers[i] = 0.9 * buffers[i] + d_p
            expected[i] = expected[i] - float(schedule(k)) * buffers[i]
    optimizer = optimizers.build_optimizer(settings("sgd"), schedule)
    for actual, wanted in zip(run(optimizer, weights, gradients), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=2e-5, atol=1e-6)


def test_adamw_is_its_algorithm_2_and_spares_biases_and_norms(problem):
    """arXiv 1711.05101; also after a round trip, as in a model that was saved."""
    weights, gradients = problem
    expected = [w.astype(np.float64) for w in weights]
    m, v = ([np.zeros_like(w) for w in expected] for _ in range(2))
    schedule = schedules.WarmupCosine(0.05, 2, 6)
    for t, step_gradients in enumerate(gradients, start=1):
        rate = float(schedule(t - 1))
        for i, g in enumerate(step_gradients):
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * np.square(g, dtype=np.float64)
            decay = 0.01 * expected[i] if expected[i].ndim > 1 else 0
            update = m[i] / (1 - 0.9**t) / (np.sqrt(v[i] / (1 - 0.999**t)) + 1e-7)
            expected[i] = expected[i] - rate * (update + decay)
    built = optimizers.build_optimizer(settings("adamw"), schedule)
    loaded = keras.optimizers.deserialize(keras.optimizers.serialize(built))
    assert isinstance(loaded, optimizers.AdamW)
    for optimizer in (built, loaded):
        for actual, wanted in zip(run(optimizer, weights, gradients), expected, strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5)


def test_lamb_without_addons_says_what_to_install(monkeypatch):
    def missing(*args):
        raise ModuleNotFoundError("No module named 'tensorflow_addons'")

    monkeypatch.setattr(optimizers.lamb, "lamb", missing)
    with pytest.raises(UserError, match=r"byol_tf\[addons\], or give 'lars'"):
        optimizers.build_optimizer(settings("lamb"), 0.1)


def test_lamb_leaves_biases_and_norms_without_decay():
    dense, norm = keras.layers.Dense(3), keras.layers.BatchNormalization()
    norm(dense(tf.ones([4, 2])))
    variables = dense.trainable_variables + norm.trainable_variables
    before = [v.numpy() for v in variables]
    optimizer = optimizers.build_optimizer(settings("lamb"), 0.1)
    optimizer.apply_gradients([(tf.zeros_like(v), v) for v in variables])
    moved = [not np.allclose(v, b) for v, b in zip(variables, before, strict=True)]
    assert moved == [True, False, False, False]  # Only the kernel decays.


def test_unknown_optimizer_is_named():
    with pytest.raises(UserError, match="adam"):
        optimizers.build_optimizer(settings("adam"), 0.1)


def test_the_recipe_of_lightly_takes_the_steps_of_lightlys_loss_and_torchs_sgd():
    """Numbers of lightly's cifar10_benchmark.py: 0.06 per 128 images, 0.9, 5e-4, mean of -cos."""
    rng = np.random.default_rng(0)
    start, targets = rng.normal(size=(2, 2, 5, 4))  # Two directions, 5 examples of 4 numbers.
    expected, buffer = start.copy(), 0
    for _ in range(4):
        norm = np.linalg.norm(expected, axis=-1, keepdims=True)
        q, z = expected / norm, targets / np.linalg.norm(targets, axis=-1, keepdims=True)
        cosine = (q * z).sum(-1, keepdims=True)
        gradient = -0.5 / 5 * (z - cosine * q) / norm  # Of 0.5 * (-mean cos_0 - mean cos_1).
        buffer = 0.9 * buffer + gradient + 5e-4 * expected
        expected = expected - 0.06 * 256 / 128 * buffer

    config = cifar10.get_config("lightly")
    rate = schedules.scale_lr(config.optimizer.base_lr, 256)
    optimizer = optimizers.build_optimizer(config, rate)
    predictions, targets = tf.Variable(start.astype("f")), tf.constant(targets.astype("f"))
    optimizer.build([predictions])
    for _ in range(4):
        with tf.GradientTape() as tape:
            loss = losses.symmetric_loss(predictions[0], targets[0], predictions[1], targets[1])
        optimizer.apply_gradients([(tape.gradient(loss, predictions), predictions)])
    np.testing.assert_allclose(predictions.numpy(), expected, atol=1e-5)

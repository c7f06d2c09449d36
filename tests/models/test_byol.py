"""BYOL's train_step against the paper's algorithm, and as a Keras model."""

import keras
import ml_collections
import numpy as np
import pytest
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.images import augmentations
from byol_tf.models import networks, optimizers, schedules
from byol_tf.models.byol import BYOL
from byol_tf.models.two_view_model import Outputs, TwoViewModel


def small_encoder():
    """Returns two convolutions with BatchNorm, traced in a second; a ResNet takes ten."""
    layers = [keras.Input((16, 16, 3))]
    for i in (1, 2):
        layers += [
            keras.layers.Conv2D(8, 3, 2, use_bias=False),
            networks.BatchNorm(name=f"bn{i}"),
            keras.layers.ReLU(),
        ]
    return keras.Sequential([*layers, keras.layers.GlobalAveragePooling2D(dtype="float32")])


def make_model(encoder=None, optimizer=None, jit_compile=False, **kwargs):
    kwargs = {"total_steps": 10, "base_ema": 0.9, "projection_size": 8, "hidden_size": 16} | kwargs
    model = BYOL(encoder or small_encoder(), **kwargs)
    model.compile(optimizer or keras.optimizers.SGD(0.1), jit_compile=jit_compile)
    return model


def make_batches(steps=3, batch_size=8, labels=False, seed=0):
    rng = np.random.default_rng(seed)
    views = rng.normal(size=(2, steps * batch_size, 16, 16, 3)).astype("float32")
    data = ((views[0], views[1]),)
    if labels:
        data += (rng.integers(0, 3, steps * batch_size),)
    return tf.data.Dataset.from_tensor_slices(data).batch(batch_size, drop_remainder=True)


def weights_of(model):
    return [w.numpy() for w in model.weights]


def target_weights(model):
    return model.target_encoder.weights + model.target_projector.weights


class DenseNumpyBYOL:
    """Runs algorithm 1 for a linear encoder in NumPy, with float64 central-difference gradients."""

    def __init__(self, weights, base_ema, total_steps, lr):
        self.theta = [
            w.astype(np.float64) for w in weights
        ]  # encoder W; projector, predictor: W b γ β V
        self.xi = [w.copy() for w in self.theta[:6]]
        self.base_ema, self.total_steps, self.lr, self.k = base_ema, total_steps, lr, 0

    @staticmethod
    def head(x, kernel, bias, gamma, beta, output):
        x = x @ kernel + bias
        x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * gamma + beta
        return np.maximum(x, 0) @ output

    @staticmethod
    def unit(x):
        return x / np.sqrt(np.maximum((x**2).sum(axis=1, keepdims=True), 1e-12))

    def loss(self, theta, v1, v2):
        def online(v):
            return self.unit(self.head(self.head(v @ theta[0], *theta[1:6]), *theta[6:]))

        def target(v):
            return self.unit(self.head(v @ self.xi[0], *self.xi[1:]))

        one_way = ((online(v1) - target(v2)) ** 2).sum(1)
        other_way = ((online(v2) - target(v1)) ** 2).sum(1)
        return (one_way + other_way).mean()

    def step(self, v1, v2, eps=1e-6):
        loss, gradients = self.loss(self.theta, v1, v2), []
        for i, weight in enumerate(self.theta):
            gradient = np.zeros_like(weight)
            for index in np.ndindex(weight.shape):
                ends = []
                for sign in (1, -1):
                    moved = [w.copy() for w in self.theta]
                    moved[i][index] += sign * eps
                    ends.append(self.loss(moved, v1, v2))
                gradient[index] = (ends[0] - ends[1]) / (2 * eps)
            gradients.append(gradient)
        self.theta = [w - self.lr * g for w, g in zip(self.theta, gradients, strict=True)]
        tau = 1 - (1 - self.base_ema) * (np.cos(np.pi * self.k / self.total_steps) + 1) / 2
        self.xi = [tau * x + (1 - tau) * t for x, t in zip(self.xi, self.theta, strict=False)]
        self.k += 1
        return loss


def linear_encoder():
    return keras.Sequential(
        [keras.Input((2, 1, 3)), keras.layers.Flatten(), keras.layers.Dense(4, use_bias=False)]
    )


def test_three_steps_equal_algorithm_1_in_numpy():
    model = make_model(linear_encoder(), hidden_size=12, projection_size=4)
    for weight in model.trainable_weights:  # Ones and zeros would hide mistakes in γ, β and biases.
        weight.assign_add(tf.random.normal(weight.shape, stddev=0.3))
    for x, t in zip(
        target_weights(model), model.encoder.weights + model.projector.weights, strict=True
    ):
        x.assign(t)
    reference = DenseNumpyBYOL([w.numpy() for w in model.trainable_weights], 0.9, 10, 0.1)
    rng = np.random.default_rng(0)
    for _ in range(3):
        v1, v2 = rng.normal(size=(2, 6, 2, 1, 3)).astype("float32")
        logs = model.train_on_batch((v1, v2), return_dict=True)
        wanted = reference.step(
            v1.reshape(6, 6).astype(np.float64), v2.reshape(6, 6).astype(np.float64)
        )
        np.testing.assert_allclose(logs["loss"], wanted, rtol=1e-5)
    for actual, wanted in zip(model.trainable_weights, reference.theta, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-3, atol=2e-5)
    trainable_target = (
        model.target_encoder.trainable_weights + model.target_projector.trainable_weights
    )
    for actual, wanted in zip(trainable_target, reference.xi, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-3, atol=2e-5)
    assert int(model.step) == 3


def test_target_starts_as_a_copy_with_variables_of_its_own():
    model = make_model()
    online = model.encoder.weights + model.projector.weights
    for target, source in zip(target_weights(model), online, strict=True):
        assert target is not source
        np.testing.assert_array_equal(target, source)


def test_target_gets_no_gradient_and_no_optimizer_slot():
    model = make_model(base_ema=1.0, optimizer=optimizers.LARS(0.5))  # τ = 1: the target stays.
    before = [w.numpy() for w in model.target_encoder.trainable_weights]
    model.fit(make_batches(), verbose=0)
    for actual, wanted in zip(model.target_encoder.trainable_weights, before, strict=True):
        np.testing.assert_array_equal(actual, wanted)
    assert len(model.optimizer.slots[0]) == len(model.trainable_weights)
    trained = {id(w) for w in model.trainable_weights}
    assert not trained & {id(w) for w in target_weights(model)}


def test_tau_zero_makes_the_target_the_online_network():
    model = make_model(base_ema=0.0, total_steps=10**9)
    model.fit(make_batches(), verbose=0)
    online = model.encoder.trainable_weights + model.projector.trainable_weights
    target = model.target_encoder.trainable_weights + model.target_projector.trainable_weights
    for actual, wanted in zip(target, online, strict=True):
        np.testing.assert_allclose(actual, wanted, atol=1e-7)


def test_target_batch_norm_keeps_moving_statistics_of_its_own():
    model = make_model(base_ema=1.0)
    model.fit(make_batches(), verbose=0)
    name = "bn1"
    online, target = model.encoder.get_layer(name), model.target_encoder.get_layer(name)
    assert np.abs(target.moving_mean).max() > 0  # It ran in training mode ...
    deeper = model.encoder.get_layer("bn2"), model.target_encoder.get_layer("bn2")
    assert not np.allclose(
        deeper[0].moving_mean, deeper[1].moving_mean
    )  # ... and is not averaged over.
    assert online.moving_mean is not target.moving_mean


def test_online_classifier_learns_without_touching_the_encoder():
    batches = make_batches(labels=True)
    histories, encoders = [], []
    for num_classes in (None, 3):
        keras.utils.set_random_seed(1)
        model = make_model(num_classes=num_classes)
        kernel = None if num_classes is None else model.classifier.kernel.numpy()
        histories.append(model.fit(batches, verbose=0, shuffle=False).history)
        encoders.append([w.numpy() for w in model.encoder.weights + model.predictor.weights])
    assert "online_accuracy" not in histories[0] and 0 <= histories[1]["online_accuracy"][0] <= 1
    assert np.abs(model.classifier.kernel - kernel).max() > 1e-3
    for without, with_classifier in zip(*encoders, strict=True):
        np.testing.assert_array_equal(without, with_classifier)


def test_loss_starts_near_four_and_falls_on_one_batch():
    batch = make_batches(1, 32)
    model = make_model(
        optimizer=optimizers.LARS(0.5, trust_coefficient=0.02), base_ema=0.99, total_steps=1000
    )
    first = model.fit(batch, verbose=0).history["loss"][0]
    last = model.fit(batch.repeat(30), verbose=0, epochs=2).history["loss"][-1]
    assert first == pytest.approx(4, abs=0.8)
    assert last < 0.5 * first


def test_fit_on_a_data_set_does_not_speak_of_shuffling(recwarn):
    make_model().fit(make_batches(1), verbose=0)
    assert not [warning for warning in recwarn if "shuffle" in str(warning.message)]


def test_call_encodes_in_inference_mode():
    model = make_model()
    model.fit(make_batches(), verbose=0)
    images = tf.random.normal([4, 16, 16, 3])
    np.testing.assert_array_equal(model(images), model.encoder(images, training=False))


def test_evaluate_reports_the_loss_in_inference_mode():
    model, batches = make_model(), make_batches(1)
    model.fit(make_batches(seed=1), verbose=0)
    before = weights_of(model)
    logs = model.evaluate(batches, verbose=0, return_dict=True)
    for actual, wanted in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(actual, wanted)
    ((v1, v2),) = next(iter(batches))

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    q = [unit(model.predictor(model.projector(model.encoder(v))).numpy()) for v in (v1, v2)]
    z = [unit(model.target_projector(model.target_encoder(v)).numpy()) for v in (v1, v2)]
    wanted = (((q[0] - z[1]) ** 2).sum(1) + ((q[1] - z[0]) ** 2).sum(1)).mean()
    assert logs["loss"] == pytest.approx(wanted, rel=1e-4)


def test_projection_std_is_one_on_an_even_sphere_and_zero_in_a_collapse():
    model = make_model(projection_size=64)
    even = tf.random.normal([4096, 64])
    model._update_metrics(Outputs(0.0, even, even))
    assert float(model.std_metric.result()) == pytest.approx(1, abs=0.02)
    model.reset_metrics()
    point = tf.ones([4096, 64]) + 1e-4 * even
    model._update_metrics(Outputs(0.0, point, point))
    assert float(model.std_metric.result()) < 0.01


def test_logs_hold_the_rate_and_tau_of_the_step():
    schedule = schedules.WarmupCosine(0.5, 2, 10)
    model = make_model(optimizer=optimizers.LARS(schedule))
    for k, batch in enumerate(make_batches(4)):
        logs = model.train_on_batch(*batch, return_dict=True)
        assert logs["lr"] == pytest.approx(float(schedule(k)))
        tau = 1 - 0.1 * (np.cos(np.pi * k / 10) + 1) / 2
        assert logs["ema"] == pytest.approx(tau, abs=1e-6)


def test_lamb_trains_and_logs_its_rate():
    config = ml_collections.ConfigDict(
        {"optimizer": {"name": "lamb", "weight_decay": 0.0, "momentum": 0.9}}
    )
    schedule = schedules.WarmupCosine(0.5, 2, 10)
    model = make_model(optimizer=optimizers.build_optimizer(config, schedule))
    history = model.fit(make_batches(2), verbose=0).history
    assert history["lr"] == [pytest.approx(0.25)]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_loss_weights_and_average_in_float32(policy):
    keras.mixed_precision.set_global_policy(policy)
    try:
        model = make_model(optimizer=optimizers.LARS(0.1), num_classes=3)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    before = model.target_encoder.trainable_weights[0].numpy()
    history = model.fit(make_batches(labels=True), verbose=0).history
    assert np.isfinite(history["loss"][0])
    assert {tf.as_dtype(w.dtype) for w in model.weights} == {tf.float32, tf.int64}
    assert model.projector(tf.zeros([2, 8])).dtype == policy.removeprefix("mixed_")
    logs = model.train_step(next(iter(make_batches(labels=True))))
    assert {logs[name].dtype for name in ("loss", "ema", "projection_std")} == {tf.float32}
    # A step of the average far below half precision's resolution has an effect.
    model.target_encoder.trainable_weights[0].assign(before)
    model._update_target(tf.constant(1 - 1e-6))
    moved = model.target_encoder.trainable_weights[0].numpy() - before
    online = model.encoder.trainable_weights[0].numpy()
    large = np.abs(online - before) > np.abs(before)
    np.testing.assert_allclose(moved[large], (1e-6 * (online - before))[large], rtol=0.2, atol=1e-8)


def test_float16_uses_loss_scaling():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = make_model()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    model.compile(optimizers.LARS(0.1))
    # Keras wraps according to the model's own policy, which the constructor recorded.
    assert isinstance(model.optimizer, keras.mixed_precision.LossScaleOptimizer)


@pytest.mark.slow
def test_whole_train_step_compiles_with_xla_to_the_same_weights():
    """Replaces a TPU: augmentation, both networks, LARS and the average in one XLA program."""
    view = augmentations.ViewConfig(crop_area=(0.5, 1.0))
    crops = np.random.default_rng(0).uniform(size=(2, 8, 16, 16, 3)).astype("float32")
    results = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        model = make_model(
            None,
            optimizers.LARS(schedules.WarmupCosine(0.5, 1, 10)),
            jit_compile,
            augmentation=augmentations.TwoViews(view, view),
            num_classes=3,
        )
        for _ in range(3):
            logs = model.train_on_batch(tuple(crops), np.arange(8) % 3, return_dict=True)
        results.append((logs, weights_of(model)))
    assert results[0][0]["loss"] == pytest.approx(results[1][0]["loss"], rel=1e-4)
    for plain, compiled in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(compiled, plain, rtol=1e-3, atol=1e-4)


def test_device_augmentation_draws_again_each_step_and_repeats_with_the_seed():
    crops = tf.random.uniform([2, 4, 16, 16, 3])

    def views(seed, step):
        model = make_model(augmentation=augmentations.TwoViews(), seed=seed)
        model.step.assign(step)
        return np.stack(model._unpack(((crops[0], crops[1]),))[0])

    np.testing.assert_array_equal(views(0, 5), views(0, 5))
    assert not np.array_equal(views(0, 5), views(0, 6))
    assert not np.array_equal(views(0, 5), views(1, 5))


def test_saved_model_file_restores_weights_and_config(tmp_path):
    model = make_model(
        num_classes=3, augmentation=augmentations.TwoViews(), seed=7, optimizer=optimizers.LARS(0.1)
    )
    model.fit(make_batches(labels=True).map(lambda v, y: ((v[0] % 1, v[1] % 1), y)), verbose=0)
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    for key in (
        "total_steps",
        "base_ema",
        "projection_size",
        "hidden_size",
        "num_classes",
        "seed",
        "name",
    ):
        assert copy.get_config()[key] == model.get_config()[key]
    assert copy.augmentation.view_1 == model.augmentation.view_1
    images = tf.random.normal([2, 16, 16, 3])
    np.testing.assert_array_equal(copy(images), model(images))
    for actual, wanted in zip(copy.weights, model.weights, strict=True):
        np.testing.assert_array_equal(actual, wanted)
    assert int(copy.step) == int(copy.optimizer.iterations) == 3
    assert len(copy.optimizer.slots[0]) == len(copy.trainable_weights)
    for actual, wanted in zip(copy.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(actual, wanted)
    assert all(np.abs(momentum).max() > 0 for momentum in copy.optimizer.slots[0][:2])
    model.optimizer.learning_rate = copy.optimizer.learning_rate = 0.1
    for trained in (model, copy):
        trained.fit(
            make_batches(1, labels=True, seed=3).map(lambda v, y: ((v[0] % 1, v[1] % 1), y)),
            verbose=0,
        )
    for actual, wanted in zip(copy.weights, model.weights, strict=True):
        np.testing.assert_allclose(actual, wanted, atol=1e-6)


def test_config_names_every_constructor_argument():
    import inspect

    signatures = [inspect.signature(cls.__init__).parameters for cls in (BYOL, TwoViewModel)]
    arguments = set().union(*signatures) - {"self", "options", "kwargs"}
    assert arguments <= set(make_model().get_config())


@pytest.mark.parametrize("name, size", [("MobileNetV2", 32)])
def test_keras_applications_backbones_are_encoders(name, size):
    backbone = getattr(keras.applications, name)(
        include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg"
    )
    model = make_model(backbone)
    images = np.random.default_rng(0).normal(size=(2, 4, size, size, 3)).astype("float32")
    before = backbone.trainable_weights[0].numpy()
    logs = model.train_on_batch((images[0], images[1]), return_dict=True)
    assert np.isfinite(logs["loss"])
    assert np.abs(backbone.trainable_weights[0] - before).max() > 0
    assert model(images[0]).shape == (4, backbone.output_shape[-1])


def test_synchronised_batch_norm_of_a_users_encoder_stays_so_in_the_target():
    encoder = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.BatchNormalization(synchronized=True),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    assert BYOL(encoder, total_steps=1).target_encoder.layers[0].synchronized


@pytest.mark.parametrize(
    "kwargs, sentence",
    [
        ({"total_steps": 0}, "total_steps is 0"),
        ({"base_ema": 1.1}, "base_ema is 1.1"),
        ({"base_ema": -0.1}, "base_ema is -0.1"),
        ({"base_ema": float("nan")}, "base_ema is nan"),
    ],
)
def test_bad_numbers_are_named(kwargs, sentence):
    with pytest.raises(UserError, match=sentence):
        make_model(**kwargs)


def test_encoder_with_a_feature_map_is_refused():
    encoder = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(4, 3)])
    with pytest.raises(UserError, match=r"\(None, 14, 14, 4\).*pooling"):
        make_model(encoder)


def test_unbuilt_encoder_is_refused():
    with pytest.raises(UserError, match="built"):
        make_model(keras.Sequential([keras.layers.Dense(3)]))


def test_a_loss_is_refused():
    with pytest.raises(UserError, match="loss"):
        make_model().compile(keras.optimizers.SGD(), loss="mse")


@pytest.mark.parametrize(
    "batch, sentence",
    [
        (np.zeros((4, 16, 16, 3), "float32"), "two views"),
        ((np.zeros((1, 16, 16, 3), "float32"),) * 2, "one image per replica"),
    ],
)
def test_wrong_batches_say_what_a_batch_is(batch, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_model().train_on_batch(batch)


def test_views_given_as_x_and_y_are_not_taken_for_labels():
    views = tf.zeros([4, 16, 16, 3])
    batches = tf.data.Dataset.from_tensors((views, views))
    with pytest.raises(ValueError, match="two views"):
        make_model().fit(batches, verbose=0)


def test_online_classifier_without_labels_is_refused():
    with pytest.raises(ValueError, match="num_classes"):
        make_model(num_classes=3).fit(make_batches(1), verbose=0)


def test_integer_views_and_steps_past_the_schedule_are_warned_of_once(caplog):
    model = make_model(total_steps=2)
    views = np.random.default_rng(0).integers(0, 256, (2, 24, 16, 16, 3), dtype="uint8")
    batches = tf.data.Dataset.from_tensor_slices(((views[0], views[1]),)).batch(8)
    with caplog.at_level("WARNING", "absl"):
        model.fit(batches, verbose=0)
    messages = [record.getMessage() for record in caplog.records if record.name == "absl"]
    assert sum("the views are uint8" in message for message in messages) == 1
    assert sum("to step 3, but the schedules end at" in message for message in messages) == 1


@pytest.mark.parametrize("largest, warnings", [(255.0, 1), (1.0, 0)])
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_float_views_that_are_not_normalised_are_warned_of_once(
    caplog, largest, warnings, run_eagerly
):
    model = make_model()
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=run_eagerly)
    views = np.random.default_rng(0).uniform(0, largest, (2, 16, 16, 16, 3)).astype("float32")
    views[:, 0, 0, 0, 0] = largest
    batches = tf.data.Dataset.from_tensor_slices(((views[0], views[1]),)).batch(8)
    with caplog.at_level("WARNING", "absl"):
        model.train_on_batch((views[0][:8], views[1][:8]))
        model.fit(batches, verbose=0)
    messages = [record.getMessage() for record in caplog.records if record.name == "absl"]
    assert (
        sum("the views reach 255; encoders expect" in message for message in messages) == warnings
    )
    assert len(messages) == warnings


def test_only_the_first_batch_is_looked_at(caplog):
    model = make_model()
    views = np.random.default_rng(0).normal(size=(2, 16, 16, 16, 3)).astype("float32")
    views[:, 8:] *= 255
    batches = tf.data.Dataset.from_tensor_slices(((views[0], views[1]),)).batch(8)
    with caplog.at_level("WARNING", "absl"):
        model.fit(batches, verbose=0)
    assert not any("the views" in record.getMessage() for record in caplog.records)


def test_a_saved_model_is_refused_in_favour_of_keras(tmp_path):
    for kwargs in ({}, {"save_format": "tf"}):
        with pytest.raises(UserError, match="give a name that ends in .keras"):
            make_model().save(tmp_path / "folder", **kwargs)
    assert not (tmp_path / "folder").exists()

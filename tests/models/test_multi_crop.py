"""Multi-crop against a loop over all pairs, and against networks built for the small size."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from byol_tf import build
from byol_tf.configs import cifar10
from byol_tf.errors import UserError
from byol_tf.models import losses, moving_statistics, multi_crop, networks, vit
from byol_tf.models.byol import BYOL
from byol_tf.models.simclr import SimCLR
from byol_tf.models.simsiam import SimSiam

LARGE, SMALL, N = 16, 8, 3


def encoder(size=LARGE, norm=networks.BatchNorm):
    """Returns a functional model: Keras checks the size of its input."""
    images = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(8, 3, 2, use_bias=False)(images)
    x = keras.layers.ReLU()(norm()(x))
    x = keras.layers.Conv2D(8, 3, 1, use_bias=False)(x)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D(dtype="float32")(x))


def make_model(method=BYOL, of=None, **options):
    options = {"total_steps": 10, "projection_size": 8, "hidden_size": 64} | options
    keras.utils.set_random_seed(0)
    model = method(of() if of else encoder(), **options)
    model.compile(keras.optimizers.SGD(0.1))
    return model


def make_views(batch=8, small=N, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(batch, LARGE, LARGE, 3)] * 2 + [(batch, SMALL, SMALL, 3)] * small
    return tuple(rng.normal(size=shape).astype("float32") for shape in shapes)


def all_pairs(predictions, targets):
    """Twice the mean distance over the pairs of different views; target i is of view i."""
    distances = []
    for online, q in enumerate(predictions):
        for target, z in enumerate(targets):
            if online != target:
                q_unit = q / np.linalg.norm(q, axis=1, keepdims=True)
                z_unit = z / np.linalg.norm(z, axis=1, keepdims=True)
                distances.append(((q_unit - z_unit) ** 2).sum(axis=1).mean())
    return 2 * np.mean(distances)


@pytest.mark.parametrize("small", [0, 1, 3])
def test_the_loss_is_twice_the_mean_over_all_pairs_of_different_views(small):
    rng = np.random.default_rng(0)
    targets, (q_1, q_2, *more) = rng.normal(size=(2, 6, 5)), rng.normal(size=(2 + small, 6, 5))
    actual = losses.symmetric_loss(q_1, targets[1], q_2, targets[0], more)
    np.testing.assert_allclose(actual, all_pairs([q_1, q_2, *more], targets), rtol=1e-5)


@pytest.mark.parametrize("method", [BYOL, SimSiam])
def test_small_crops_predict_the_targets_of_both_views(method):
    model = make_model(method)
    views = make_views()
    # The same networks once more, for the small size and, so that nothing moves, as copies.
    copy = encoder(SMALL)
    copy.set_weights(model.encoder.get_weights())

    def head(x):
        for network in model.trained[1:]:
            x = network(x, training=True)
        return x.numpy()

    predictions = [head(model.encoder(view, training=True)) for view in views[:2]]
    together = head(copy(np.concatenate(views[2:]), training=True))
    predictions += np.split(together, N)
    if method is BYOL:
        targets = [model.target_projector(model.target_encoder(v, training=True), training=True)
                   for v in views[:2]]  # fmt: skip
    else:
        targets = [model.projector(model.encoder(v, training=True), training=True)
                   for v in views[:2]]  # fmt: skip
    wanted = all_pairs(predictions, [target.numpy() for target in targets])
    outputs = model._outputs(views, training=True)
    np.testing.assert_allclose(outputs.loss, wanted if method is BYOL else wanted / 4, rtol=1e-4)


def test_targets_get_no_gradient_through_small_crops():
    model = make_model(SimSiam)
    views = make_views()
    with tf.GradientTape() as tape:
        tape.watch([tf.convert_to_tensor(view) for view in views])
        loss = model._outputs(views, training=True).loss
    assert all(g is not None for g in tape.gradient(loss, model.trainable_weights))
    byol = make_model()
    before = [w.numpy() for w in byol.target_encoder.trainable_weights]
    byol.base_ema, byol.constant_ema = 1.0, True
    byol.train_on_batch(views)
    for weight, wanted in zip(byol.target_encoder.trainable_weights, before, strict=True):
        np.testing.assert_array_equal(weight, wanted)


def test_fit_trains_on_small_crops_and_keeps_the_moving_statistics_to_the_two_views():
    def trained(small):
        model = make_model(num_classes=3)
        batches = (make_views(small=small), np.arange(8) % 3)
        history = model.fit(tf.data.Dataset.from_tensors(batches), verbose=0).history
        return model, history["loss"][0]

    (with_small, loss), (without, plain) = trained(N), trained(0)
    assert np.isfinite(loss) and loss != plain
    kernels = with_small.encoder.trainable_weights[0], without.encoder.trainable_weights[0]
    assert np.abs(np.subtract(*kernels)).max() > 1e-5
    for network, other in zip(with_small.trained, without.trained, strict=True):
        layers = map(moving_statistics.batch_norms, (network, other))
        for layer, wanted in zip(*layers, strict=True):
            assert np.abs(np.asarray(wanted.moving_mean)).max() > 1e-4
            np.testing.assert_allclose(layer.moving_mean, wanted.moving_mean, atol=1e-6)
            np.testing.assert_allclose(layer.moving_variance, wanted.moving_variance, atol=1e-5)


def test_two_replicas_train_as_one_device(two_replicas):
    views = make_views()

    def trained(strategy):
        with strategy.scope():
            model = make_model()

        def batches(context):
            size = len(views[0]) // context.num_replicas_in_sync
            return tf.data.Dataset.from_tensor_slices((views,)).batch(size).repeat(2)

        dataset = strategy.distribute_datasets_from_function(batches)
        model.fit(dataset, steps_per_epoch=2, verbose=0)
        return [weight.numpy() for weight in model.trainable_weights]

    one = trained(tf.distribute.get_strategy())
    for actual, wanted in zip(trained(two_replicas), one, strict=True):
        np.testing.assert_allclose(actual, wanted, atol=2e-5)


def test_micro_batches_add_up_to_the_whole_batch():
    """Without batch statistics nothing but the order of sums differs."""

    def trained(count):
        model = make_model(
            of=lambda: encoder(norm=keras.layers.LayerNormalization),
            head_norm="group",
            micro_batches=count,
        )
        logs = model.train_on_batch(make_views(), return_dict=True)
        return logs["loss"], [weight.numpy() for weight in model.trainable_weights]

    (loss, weights), (parts_loss, parts_weights) = trained(1), trained(2)
    assert parts_loss == pytest.approx(loss, rel=1e-5)
    for actual, wanted in zip(parts_weights, weights, strict=True):
        np.testing.assert_allclose(actual, wanted, atol=1e-5)


def test_mixed_precision_computes_small_crops_in_half_and_the_loss_in_float32():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = make_model()
    finally:
        keras.mixed_precision.set_global_policy("float32")
    views = make_views()
    found = multi_crop.predictions(model.trained, views[2:], training=False)
    assert {prediction.dtype for prediction in found} == {tf.bfloat16}
    loss = model._outputs(views, training=True).loss
    assert loss.dtype == tf.float32
    np.testing.assert_allclose(loss, make_model()._outputs(views, training=True).loss, rtol=0.05)


@pytest.mark.parametrize(
    "method, batch, sentence",
    [
        (SimCLR, make_views(), "SimCLR's batch is not two views"),
        (BYOL, (*make_views(), make_views()[0]), "small crops .* have several sizes"),
    ],
)
def test_wrong_batches_say_what_a_batch_is(method, batch, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_model(method).train_on_batch(batch)


def test_an_encoder_for_one_size_is_refused_in_one_sentence():
    transformer = vit.vit(image_size=16, patch_size=4, width=8, depth=1, heads=2)
    with pytest.raises(UserError, match=r"'vit_8x1_4' takes images \(None, 16, 16, 3\).* 8 pixels"):
        multi_crop.check_size(transformer, SMALL)
    multi_crop.check_size(transformer, 16)
    flat = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten(),
                             keras.layers.Dense(4)])  # fmt: skip
    with pytest.raises(UserError, match="no small crops of 8 pixels"):
        multi_crop.check_size(flat, SMALL)
    with pytest.raises(ValueError, match="no small crops of 8 pixels"):
        make_model(of=lambda: flat)._outputs(make_views(), training=True)
    multi_crop.check_size(encoder(), SMALL)


def test_a_method_of_two_views_is_refused_by_its_config():
    config = cifar10.get_config("smoke")
    config.method, config.augment.small_crops, config.precision = "simclr", 2, "float32"
    with pytest.raises(UserError, match="'simclr' .* no small crops; .* byol or simsiam"):
        build.build_model(config, 1, None, tf.distribute.get_strategy())

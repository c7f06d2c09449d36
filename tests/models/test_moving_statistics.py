"""BatchNorm's moving statistics against haiku's ExponentialMovingAverage in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from byol_tf import data
from byol_tf.configs import cifar10_demo
from byol_tf.models import moving_statistics, networks, optimizers
from byol_tf.models.byol import BYOL
from byol_tf.models.simclr import SimCLR

DECAY = 0.9


class HaikuAverage:
    """`hk.ExponentialMovingAverage(decay, zero_debias=True)`, as its documentation defines it."""

    def __init__(self, decay):
        self.decay, self.counter, self.hidden = decay, 0, 0.0

    def __call__(self, value):
        self.counter += 1
        self.hidden = self.hidden * self.decay + value.astype(np.float64) * (1 - self.decay)
        return self.hidden / (1 - self.decay**self.counter)


def moments(maps):
    """Mean and variance of each channel, the variance of maps with N - 1 as both Keras's kernel."""
    axes = tuple(range(maps.ndim - 1))
    count = maps[..., 0].size
    bessel = count / (count - 1) if maps.ndim == 4 else 1.0
    return maps.mean(axes), maps.var(axes) * bessel


def make_encoder(first):
    """The first layer sees the views themselves, whose statistics no weight changes."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            first,
            keras.layers.Conv2D(8, 3, 2, use_bias=False),
            networks.BatchNorm(),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )


def make_model(method=BYOL, first=None, **options):
    encoder = make_encoder(first or networks.BatchNorm())
    model = method(encoder, total_steps=9, projection_size=8, hidden_size=16, **options)
    model.compile(keras.optimizers.SGD(0.1))
    return model


def batches(count, size=8):
    views = np.random.default_rng(0).normal(2, 3, (count, 2, size, 8, 8, 3)).astype("float32")
    return [tuple(pair) for pair in views]


@pytest.mark.parametrize("method, micro_batches", [(BYOL, 1), (BYOL, 2), (SimCLR, 1)])
def test_statistics_are_haikus_after_every_step(method, micro_batches):
    model = make_model(method, micro_batches=micro_batches)
    mean, variance = HaikuAverage(DECAY), HaikuAverage(DECAY)
    encoders = [model.encoder, *model.targets[:1]]
    for views in batches(3):
        model.train_on_batch(views)
        for part in zip(*(np.split(view, micro_batches) for view in views), strict=True):
            for view in part:
                wanted = [ema(x) for ema, x in zip((mean, variance), moments(view), strict=True)]
        for encoder in encoders:
            first = encoder.layers[0]
            np.testing.assert_allclose(first.moving_mean, wanted[0], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(first.moving_variance, wanted[1], rtol=1e-4)


def test_layers_of_keras_with_its_own_decay_are_corrected_too(tmp_path):
    """And a model that was saved in between goes on counting."""
    model = make_model(first=keras.layers.BatchNormalization())
    mean = HaikuAverage(0.99)
    for number, views in enumerate(batches(4)):
        if number == 2:
            model.save(tmp_path / "model.keras")
            model = keras.models.load_model(tmp_path / "model.keras")
        model.train_on_batch(views)
        for view in views:
            wanted = mean(moments(view)[0])
        np.testing.assert_allclose(model.encoder.layers[0].moving_mean, wanted, rtol=1e-3)


def test_a_frozen_layer_keeps_its_statistics():
    model = make_model(first=keras.layers.BatchNormalization(trainable=False))
    layer = model.encoder.layers[0]
    layer.moving_mean.assign([1.0, 2.0, 3.0])
    model.train_on_batch(batches(1)[0])
    np.testing.assert_array_equal(layer.moving_mean, [1, 2, 3])
    np.testing.assert_array_equal(layer.moving_variance, [1, 1, 1])


def test_the_variance_of_a_channel_that_is_always_zero_stays_one_of_a_root():
    model = make_model(first=keras.layers.BatchNormalization(momentum=0.999))
    for _ in range(2):
        model.train_on_batch((np.zeros((8, 8, 8, 3)), np.zeros((8, 8, 8, 3))))
    variance = model.encoder.layers[0].moving_variance.numpy()
    assert (variance >= 0).all() and (variance < 1e-3).all()


def test_nearest_neighbours_after_19_steps_are_those_of_haikus_statistics(images_dir):
    """As many steps as the README's script; Keras's own statistics find other neighbours."""
    config = cifar10_demo.get_config()
    config.batch_size = 32
    source = data.open_source(str(images_dir / "test"))
    model = BYOL(small_convnet(), total_steps=19, projection_size=16, hidden_size=32)
    model.compile(optimizers.LARS(2.0))
    probe_encoder = small_convnet()
    layers = moving_statistics.batch_norms(probe_encoder)
    probe = keras.Model(probe_encoder.inputs, [layer.input for layer in layers])
    averages = [(HaikuAverage(DECAY), HaikuAverage(DECAY)) for _ in layers]
    inputs_of = tf.function(lambda view: probe(view, training=True))
    for views, _ in data.two_view_dataset(source, config).take(19):
        probe_encoder.set_weights(model.encoder.get_weights())
        for view in views:
            wanted = [
                [ema(x) for ema, x in zip(pair, moments(maps.numpy()), strict=True)]
                for pair, maps in zip(averages, inputs_of(view), strict=True)
            ]
        model.train_on_batch(tuple(views))
    images, _, _ = next(iter(data.evaluation_dataset(source, preprocessing(config), 500)))
    ours = neighbours(model.encoder, images)
    left = DECAY ** (2 * 19)  # Of the first values 0 and 1, in Keras's own.
    shares = {}
    for name, start in (("haiku", None), ("keras", (0, 1))):
        probe_encoder.set_weights(model.encoder.get_weights())
        for layer, statistics in zip(layers, wanted, strict=True):
            if start:
                statistics = [
                    (1 - left) * x + left * s for x, s in zip(statistics, start, strict=True)
                ]
            layer.moving_mean.assign(statistics[0])
            layer.moving_variance.assign(statistics[1])
        shares[name] = np.mean(neighbours(probe_encoder, images) == ours)
    assert shares["haiku"] > 0.99 and shares["keras"] < 0.97, shares


def small_convnet():
    images = x = keras.Input((32, 32, 3))
    for channels in (16, 32, 64):
        x = keras.layers.Conv2D(channels, 3, 2, use_bias=False)(x)
        x = keras.layers.ReLU()(networks.BatchNorm()(x))
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))


def preprocessing(config):
    from byol_tf import build

    return build.preprocessing_from_config(config)


def neighbours(encoder, images):
    """The index of each image's nearest other image, by cosine."""
    embeddings = encoder(images, training=False).numpy()
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    similarity = embeddings @ embeddings.T
    np.fill_diagonal(similarity, -2)
    return similarity.argmax(axis=1)

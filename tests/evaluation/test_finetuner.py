import keras
import numpy as np
import pytest
import tensorflow as tf

from byol_tf import data
from byol_tf.errors import UserError
from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder
from byol_tf.evaluation.finetuner import Classified, Diverged, FineTuner
from byol_tf.images.preprocessing import Preprocessing, decode_image
from byol_tf.models import networks
from byol_tf.sources import open_source
from byol_tf.sources.subset import SubsetSource

SIZE, CLASSES = 8, 10


def pretrained(*layers, size=SIZE, build=None) -> EvaluatedEncoder:
    """Returns an encoder that rebuilds the Keras layers from their configs with equal weights."""

    def from_layers():
        keras.utils.set_random_seed(3)
        images = outputs = keras.Input((size, size, 3))
        for layer in layers:
            outputs = layer.from_config(layer.get_config())(outputs)
        return keras.Model(images, outputs)

    build = build or from_layers
    return EvaluatedEncoder("BYOL", build(), Preprocessing(size, 1.0), "", build)


def linear() -> EvaluatedEncoder:
    return pretrained(keras.layers.Flatten(), keras.layers.Dense(5))


def resnet() -> EvaluatedEncoder:
    def build():
        keras.utils.set_random_seed(0)
        return networks.resnet(18, width=0.25, image_size=16, stem="small")

    return pretrained(size=16, build=build)


@pytest.fixture(scope="module")
def twenty(images_dir):
    """Two images of each class."""
    source = open_source(str(images_dir / "train"))
    return SubsetSource(source, np.arange(0, source.num_examples, 125))


def weights_of(tuner) -> list[np.ndarray]:
    return tuner.model.get_weights()


def test_steps_are_nesterov_sgd_with_coupled_decay_and_a_cosine_rate(twenty):
    steps, rate, decay, seed = 4, 0.3, 0.05, 7
    start = linear()
    tuner = FineTuner(start, CLASSES)
    tuner.train(
        twenty, steps=steps, batch_size=6, learning_rate=rate, weight_decay=decay, seed=seed
    )

    # By hand, float64: logits = (x A + a) W + b.
    first, first_bias = (w.astype(float) for w in start.encode.get_weights())
    weights = [first, first_bias, np.zeros((5, CLASSES)), np.zeros(CLASSES)]
    buffers = [np.zeros_like(w) for w in weights]
    batches = data.labelled_dataset(twenty, start.preprocessing, 6, seed)
    for step, (images, labels) in enumerate(batches.take(steps).as_numpy_iterator()):
        x = images.reshape(6, -1).astype(float)
        hidden = x @ weights[0] + weights[1]
        exponentials = np.exp(hidden @ weights[2] + weights[3])
        error = exponentials / exponentials.sum(axis=1, keepdims=True)
        error = (error - np.eye(CLASSES)[labels]) / 6
        back = error @ weights[2].T
        gradients = [x.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)]
        for i, gradient in enumerate(gradients):
            if weights[i].ndim > 1:
                gradient = gradient + decay * weights[i]
            buffers[i] = 0.9 * buffers[i] + gradient
            lr = rate * (1 + np.cos(np.pi * step / steps)) / 2
            weights[i] = weights[i] - lr * (gradient + 0.9 * buffers[i])
    for actual, expected in zip(weights_of(tuner), weights, strict=True):
        np.testing.assert_allclose(actual, expected, atol=2e-5)
    assert np.abs(weights[0] - first).max() > 0.01, "the encoder was to be trained"


def test_the_pretrained_encoder_stays_as_it_is(twenty):
    start = linear()
    before = [weight.copy() for weight in start.encode.get_weights()]
    tuner = FineTuner(start, CLASSES)
    tuner.train(twenty, steps=2, batch_size=20, learning_rate=0.1, seed=0)
    for now, then in zip(start.encode.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert not np.allclose(weights_of(tuner)[0], before[0])


class Traces(keras.layers.Layer):
    """Counts how often Python runs it, which a compiled step does not."""

    count = 0

    def call(self, inputs):
        Traces.count += 1
        return inputs


def test_every_training_starts_anew_and_none_compiles_anew(twenty):
    layers = [
        Traces(),
        keras.layers.Conv2D(4, 3, use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.GlobalAveragePooling2D(),
    ]
    options = {"batch_size": 20, "seed": 0}
    tuner = FineTuner(pretrained(*layers), CLASSES)
    tuner.train(twenty, steps=3, learning_rate=0.5, weight_decay=0.1, **options)
    other, traces = weights_of(tuner), Traces.count
    tuner.train(twenty, steps=2, learning_rate=0.1, **options)
    assert Traces.count == traces
    again = weights_of(tuner)
    fresh = FineTuner(pretrained(*layers), CLASSES)
    fresh.train(twenty, steps=2, learning_rate=0.1, **options)
    for actual, expected, different in zip(again, weights_of(fresh), other, strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-6)
        assert not np.allclose(actual, different)


@pytest.mark.parametrize("momentum, expected", [(0.6, 0.6), (None, 0.97)])
def test_batch_norm_statistics_move_as_told(twenty, momentum, expected):
    layers = [
        keras.layers.Flatten(),
        keras.layers.BatchNormalization(momentum=0.97, center=False, scale=False),
    ]
    tuner = FineTuner(pretrained(*layers), CLASSES, momentum)
    tuner.train(twenty, steps=1, batch_size=20, learning_rate=0.1, seed=0)
    (images, _), *_ = data.labelled_dataset(twenty, Preprocessing(SIZE, 1.0), 20, 0).take(1)
    batch_mean = images.numpy().reshape(20, -1).mean(axis=0)
    moving_mean = next(w for w in tuner.model.weights if "moving_mean" in w.name).numpy()
    np.testing.assert_allclose(moving_mean, (1 - expected) * batch_mean, atol=1e-5)


def test_a_network_learns_twenty_images_by_heart(twenty):
    tuner = FineTuner(resnet(), CLASSES)
    tuner.train(twenty, steps=60, batch_size=20, learning_rate=0.2, seed=0)
    assert tuner.classify(twenty).hits(1).mean() >= 0.9


def test_classification_is_of_centre_crops_in_inference_mode(images_dir, twenty):
    tuner = FineTuner(resnet(), CLASSES)
    tuner.train(twenty, steps=1, batch_size=20, learning_rate=0.1, seed=0)
    classified = tuner.classify(twenty)
    assert classified.labels.tolist() == np.repeat(np.arange(10), 2).tolist()
    files = sorted((images_dir / "train").glob("*/*"))[::125]
    images = [Preprocessing(16, 1.0)(decode_image(file.read_bytes())) for file in files]
    expected = tuner.model.predict(tf.stack(images), verbose=0)
    np.testing.assert_allclose(classified.logits, expected, atol=1e-4)
    assert classified.predicted.tolist() == expected.argmax(axis=1).tolist()


def test_a_diverging_rate_is_told_and_leaves_no_trace(twenty):
    tuner = FineTuner(linear(), CLASSES)
    with pytest.raises(Diverged, match="diverged at the learning rate 1e"):
        tuner.train(twenty, steps=20, batch_size=20, learning_rate=1e20, seed=0)
    tuner.train(twenty, steps=1, batch_size=20, learning_rate=0.01, seed=0)
    assert np.isfinite(tuner.classify(twenty).logits).all()


def test_logits_beyond_all_numbers_count_as_diverged(twenty):
    tuner = FineTuner(linear(), CLASSES)
    tuner.model.set_weights([np.full_like(weight, 1e30) for weight in weights_of(tuner)])
    with pytest.raises(Diverged, match="not finite"):
        tuner.classify(twenty)


def test_replicas_that_share_the_batches_train_the_same_classifier(twenty, two_replicas):
    options = {"steps": 3, "batch_size": 20, "learning_rate": 0.1, "weight_decay": 0.01, "seed": 0}
    alone = FineTuner(linear(), CLASSES)
    alone.train(twenty, **options)
    with two_replicas.scope():
        shared = FineTuner(linear(), CLASSES)
        shared.train(twenty, **options)
        logits = shared.classify(twenty).logits
    for actual, expected in zip(weights_of(shared), weights_of(alone), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5)
    np.testing.assert_allclose(logits, alone.classify(twenty).logits, atol=1e-4)


def test_hits_among_the_best_are_counted_and_equal_logits_go_to_the_first():
    logits = np.float32([[3, 2, 1, 0, -1, -2], [0, 0, 0, 0, 0, 0], [-2, -1, 0, 1, 2, 3]])
    classified = Classified(logits, np.int32([1, 1, 0]))
    assert classified.hits(1).tolist() == [False, False, False]
    assert classified.hits(2).tolist() == [True, True, False]
    assert classified.hits(5).tolist() == [True, True, False]
    assert classified.hits(100).all()
    assert classified.predicted.tolist() == [0, 0, 5]


def test_what_cannot_be_fine_tuned_is_a_sentence():
    with pytest.raises(UserError, match="two"):
        FineTuner(linear(), 1)
    with pytest.raises(UserError, match=r"not \[B, D\]"):
        FineTuner(pretrained(keras.layers.Conv2D(4, 3)), CLASSES)
    pixels = EvaluatedEncoder("raw pixels", tf.identity, Preprocessing(SIZE, 1.0), "")
    with pytest.raises(UserError, match="'raw pixels' cannot be trained further"):
        FineTuner(pixels, CLASSES)


def test_an_infinite_loss_counts_as_diverged_though_the_weights_are_finite(twenty):
    def build():
        # Differences of logits overflow, softmax's gradients do not.
        images = keras.Input((SIZE, SIZE, 3))
        x = keras.layers.Flatten()(images)
        return keras.Model(images, keras.layers.Lambda(lambda x: 5e18 * x)(x))

    tuner = FineTuner(pretrained(build=build), CLASSES)
    with pytest.raises(Diverged):
        tuner.train(twenty, steps=5, batch_size=20, learning_rate=0.1, seed=0)
    assert all(np.isfinite(weight).all() for weight in weights_of(tuner))

import keras
import ml_collections
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from byol_tf.errors import UserError
from byol_tf.evaluation.dense import pairs


def config(**changes):
    values = {
        "steps": 10,
        "batch_size": 4,
        "momentum": 0.9,
        "weight_decay": 0.01,
        "decay_at": (0.7, 0.9),
    }
    return ml_collections.ConfigDict(values | changes)


def scaling(initial):
    """A model of one weight: the image times a number."""
    kernel = keras.initializers.Constant(initial)
    images = keras.Input((None, None, 1))
    return keras.Model(
        images, keras.layers.Conv2D(1, 1, use_bias=False, kernel_initializer=kernel)(images)
    )


def of_ones(steps):
    return tf.data.Dataset.from_tensors((tf.ones([1, 2, 2, 1]), tf.zeros([1, 2, 2, 1]))).repeat(
        steps
    )


def test_training_is_sgd_with_momentum_and_l2_and_the_rate_drops_twice():
    model = scaling(0.5)
    # The loss is the mean output, whose gradient is 1.
    training = config(steps=20)
    pairs.fit(model, lambda _, outputs: tf.reduce_mean(outputs), of_ones(20), 0.1, training)
    weight, velocity = 0.5, 0.0
    for step in range(20):
        rate = 0.1 if step <= 14 else 0.01 if step <= 18 else 0.001
        velocity = 0.9 * velocity - rate * (1 + 0.01 * weight)
        weight += velocity
    assert model.get_weights()[0].item() == pytest.approx(weight, rel=1e-5)


def test_a_loss_that_is_not_finite_ends_training_and_names_the_step():
    def loss(_, outputs):
        return tf.reduce_mean(outputs) * 1e30

    with pytest.raises(pairs.Diverged, match="learning rate 1e.10 diverged at step 2 of 10"):
        pairs.fit(scaling(1.0), loss, of_ones(10), 1e10, config())


@pytest.mark.parametrize(
    "field, value",
    [
        ("steps", 0),
        ("batch_size", 0),
        ("momentum", 1.0),
        ("weight_decay", -0.1),
        ("decay_at", (0.9, 0.7)),
        ("decay_at", (0.7, 1.0)),
    ],
)
def test_a_bad_value_is_an_error_that_names_it(field, value):
    with pytest.raises(UserError, match=rf"depth\.{field} is .*; give "):
        pairs.check_training("depth", config(**{field: value}))
    pairs.check_training("depth", config())


def test_batches_are_whole_epochs_in_orders_that_the_seed_decides():
    paths = [(f"image{index}", f"map{index}") for index in range(5)]

    def example(image, annotation, seed):
        return image, annotation, seed

    def run(seed):
        batches = pairs.batches(paths, example, 4, 5, seed).as_numpy_iterator()
        return [np.concatenate(column) for column in zip(*batches, strict=True)]

    images, maps, seeds = run(seed=1)
    assert len(images) == 20, "five batches of four"
    epochs = images.reshape(4, 5)
    for epoch in epochs:
        assert sorted(epoch) == [image.encode() for image, _ in paths]
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert [name[3:] for name in maps] == [name[5:] for name in images]
    assert len({tuple(seed) for seed in seeds}) == 20
    assert np.array_equal(images, run(seed=1)[0])
    assert not np.array_equal(images, run(seed=2)[0])


def test_a_file_that_is_no_whole_picture_is_named(tmp_path, images_dir):
    whole = next((images_dir / "train" / "cat").iterdir())
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(whole.read_bytes()[:300])
    checked = []
    annotation = str(tmp_path / "map.png")
    with Image.open(whole) as image:
        image.save(annotation)
    pairs.check_pairs([(str(whole), annotation)], lambda picture, path: checked.append(path))
    assert checked == [annotation]
    with pytest.raises(UserError, match=f"{whole.name}' cannot be read"):
        pairs.check_pairs([(str(whole), str(whole))], lambda *_: None)  # A map is a PNG.
    with pytest.raises(UserError, match="broken.jpg' cannot be read"):
        pairs.check_pairs([(str(broken), annotation)], lambda *_: None)

"""Subsets of a source, and the labelled batches that a classifier is fine-tuned on."""

import numpy as np
import pytest
import tensorflow as tf
from pictures import encoded, photo
from PIL import Image

from byol_tf import data
from byol_tf.errors import UserError
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.sources import open_source
from byol_tf.sources.subset import SubsetSource

PLAIN = Preprocessing(8, 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def gray(number: int) -> bytes:
    return encoded(Image.new("RGB", (12, 10), (20 * number,) * 3), "PNG")


def write_folder(folder, contents: list[bytes]) -> str:
    """Writes a folder; image i has class i // 5."""
    for i, content in enumerate(contents):
        path = folder / "ab"[i // 5] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(folder)


def write_tfrecords(folder, contents: list[bytes]) -> str:
    for i, content in enumerate(contents):
        values = {
            "image/encoded": {"bytes_list": {"value": [content]}},
            "image/label": {"int64_list": {"value": [i // 5]}},
        }
        features = {name: tf.train.Feature(**value) for name, value in values.items()}
        example = tf.train.Example(features=tf.train.Features(feature=features))
        with tf.io.TFRecordWriter(str(folder / f"{i}.tfrecord")) as writer:
            writer.write(example.SerializeToString())
    return str(folder)


@pytest.fixture(params=[write_folder, write_tfrecords])
def ten(request, tmp_path):
    """Ten images; image i has grey level 20 i and label i // 5."""
    return open_source(request.param(tmp_path, [gray(i) for i in range(10)]))


def numbers(images) -> list[int]:
    """Returns which of the ten each image is."""
    return np.round(np.asarray(images).mean(axis=(1, 2, 3)) * 255 / 20).astype(int).tolist()


def test_it_holds_the_chosen_examples_in_the_order_of_the_source(ten):
    subset = SubsetSource(ten, np.array([7, 1, 4]))
    assert (subset.num_examples, subset.class_names) == (3, ten.class_names)
    ((images, labels, keys),) = data.evaluation_dataset(subset, PLAIN, 10)
    assert numbers(images) == [1, 4, 7]
    assert labels.numpy().tolist() == [0, 0, 1]
    all_keys = np.concatenate([k for _, _, k in data.evaluation_dataset(ten, PLAIN, 10)])
    assert keys.numpy().tolist() == all_keys[[1, 4, 7]].tolist()


def test_batches_are_whole_shuffled_epochs_with_their_labels(ten):
    subset = SubsetSource(ten, np.array([0, 2, 3, 8, 9]))
    batches = list(data.labelled_dataset(subset, PLAIN, 10, seed=1).take(6))
    assert batches[0][0].shape == (10, 8, 8, 3)
    orders = np.concatenate([numbers(images) for images, _ in batches]).reshape(-1, 5)
    labels = np.concatenate([labels for _, labels in batches]).reshape(-1, 5)
    assert (np.sort(orders, axis=1) == [0, 2, 3, 8, 9]).all()
    assert (labels == orders // 5).all()
    assert len({tuple(order) for order in orders.tolist()}) > 5


def test_another_seed_gives_another_order_and_the_same_seed_the_same(tmp_path):
    ten = open_source(write_folder(tmp_path, [gray(i) for i in range(10)]))
    subset = SubsetSource(ten, np.arange(10))
    first, again, other = (
        numbers(next(iter(data.labelled_dataset(subset, PLAIN, 10, seed)))[0]) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_each_epoch_has_new_crops_and_flips_at_the_preprocessings_scale(tmp_path):
    image = photo(40, 30)
    write_folder(tmp_path, [encoded(Image.fromarray(image), "PNG")] * 6)
    source = open_source(str(tmp_path))
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    (images, _), *_ = data.labelled_dataset(source, Preprocessing(16, 1.0, mean, std), 60, 0).take(
        1
    )
    # Two crops of a small image may be the same pixels.
    assert len(np.unique(images.numpy(), axis=0)) > 50
    # Areas are uniform in 8 to 100 % of the image: their means scatter around that of the image.
    levels = (images.numpy() * std + mean).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(levels, image.mean(axis=(0, 1)) / 255, atol=0.06)


def test_a_corrupt_image_gives_its_place_to_another_and_nothing_but_corrupt_ones_is_a_sentence(
    tmp_path,
):
    write_folder(tmp_path, [gray(1), b"no image", gray(3)])
    source = open_source(str(tmp_path))
    images, labels = next(iter(data.labelled_dataset(source, PLAIN, 6, seed=0)))
    assert set(numbers(images)) == {1, 3} and labels.shape == 6

    corrupt = SubsetSource(source, np.array([1]))
    with pytest.raises(UserError, match="all images of a batch"), data.clean_errors(corrupt):
        next(iter(data.labelled_dataset(corrupt, PLAIN, 2, seed=0)))


def test_subsets_have_fingerprints_of_their_own(ten):
    subsets = [SubsetSource(ten, np.array(positions)) for positions in ([1, 2], [2, 1], [1, 3])]
    first, same, other = (subset.fingerprint() for subset in subsets)
    assert first == same and len({first, other, ten.fingerprint()}) == 3

import os

import numpy as np
import pytest
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.evaluation.subsets import Listing, class_balanced, list_examples, read_list, write_list
from byol_tf.sources import open_source

NAMES = ("cat", "dog", "owl")


def unbalanced(counts=(500, 300, 200), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


@pytest.mark.parametrize("fraction, per_class", [(0.01, 3), (0.1, 33), (0.5, 167), (0.0001, 1)])
def test_each_class_gets_the_same_number_of_labels(fraction, per_class):
    labels = unbalanced()
    positions = class_balanced(labels, fraction, 0, NAMES)
    assert np.bincount(labels[positions]).tolist() == [per_class] * 3
    assert (np.diff(positions) > 0).all(), "sorted and distinct"


def test_the_seed_decides_and_the_smaller_subset_is_part_of_the_larger():
    labels = unbalanced()
    one, again, other = (set(class_balanced(labels, 0.01, seed, NAMES)) for seed in (0, 0, 1))
    assert one == again != other
    assert one < set(class_balanced(labels, 0.1, 0, NAMES))


def test_examples_anywhere_in_a_class_can_be_drawn():
    labels = np.repeat([0, 1], 50)
    drawn = [class_balanced(labels, 0.1, seed, NAMES[:2]) for seed in range(100)]
    assert set(np.concatenate(drawn).tolist()) == set(range(100))


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(UserError, match=r"give one in \(0, 1\]"):
        class_balanced(unbalanced(), fraction, 0, NAMES)


@pytest.mark.parametrize(
    "counts, fraction, says",
    [
        ((500, 300, 1), 0.01, "3 per class, but class 'owl' has 1 images"),
        ((500, 300, 200), 1.0, "333 per class, but class 'dog' has 300"),
        ((2, 2, 1), 1.0, "2 per class, but class 'owl' has 1"),  # Six labels wanted, five images.
        ((3, 3, 0), 0.01, "1 per class, but class 'owl' has 0"),
    ],
)
def test_a_class_with_too_few_examples_is_named(counts, fraction, says):
    with pytest.raises(UserError, match=says):
        class_balanced(unbalanced(counts), fraction, 0, NAMES)


def test_a_folder_is_listed_without_reading_its_files(tmp_path):
    for name in ("b/2.jpg", "a/1.jpg", "b/deep/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    source = open_source(str(tmp_path))
    for folder, _, files in os.walk(tmp_path):
        for file in files:
            os.remove(os.path.join(folder, file))
    listing = list_examples(source)
    assert listing.keys == ["a/1.jpg", "b/2.jpg", "b/deep/3.jpg"]
    assert listing.labels.tolist() == [0, 1, 1] and listing.labels.dtype == np.int32


def test_tfrecords_are_listed_by_key_and_label(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "x.tfrecord")) as writer:
        for key, label in ((b"first", 1), (b"", 0)):
            values = {
                "image/encoded": {"bytes_list": {"value": [b"never decoded"]}},
                "image/label": {"int64_list": {"value": [label]}},
                "image/key": {"bytes_list": {"value": [key]}},
            }
            features = {name: tf.train.Feature(**value) for name, value in values.items()}
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
    listing = list_examples(open_source(str(tmp_path)))
    assert listing.labels.tolist() == [1, 0]
    assert listing.keys == ["first", f"{tmp_path}/x.tfrecord#1"]


def listing(*keys) -> Listing:
    return Listing(np.zeros(len(keys), np.int32), list(keys))


def test_a_list_is_read_as_it_was_written(tmp_path):
    whole = listing("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/white space é.jpg")
    path = str(tmp_path / "some.txt")
    write_list(path, [whole.keys[3], whole.keys[1]])
    assert (tmp_path / "some.txt").read_text() == "b/white space é.jpg\na/2.jpg\n"
    assert read_list(path, whole).tolist() == [1, 3]
    assert os.listdir(tmp_path) == ["some.txt"]


def test_a_file_name_that_is_no_utf8_survives_its_list(tmp_path):
    (tmp_path / "a").mkdir()
    for name in (b"a/\xff1.jpg", b"a/2.jpg"):
        open(os.path.join(os.fsencode(tmp_path), name), "w").close()
    whole = list_examples(open_source(str(tmp_path)))
    path = str(tmp_path / "some.txt")
    write_list(path, [whole.keys[1]])
    assert read_list(path, whole).tolist() == [1]


def test_simclrs_published_lists_name_files_without_their_folder(tmp_path):
    path = tmp_path / "1percent.txt"
    path.write_text("n01440764_10043.JPEG\r\n\nn01443537_2.JPEG\n")
    whole = listing(
        "n01440764/n01440764_1.JPEG", "n01440764/n01440764_10043.JPEG", "n01443537/n01443537_2.JPEG"
    )
    assert read_list(str(path), whole).tolist() == [1, 2]


@pytest.mark.parametrize(
    "text, says",
    [
        ("a/1.jpg\nc/9.jpg\n", "'c/9.jpg', the key of 0 training images; give keys as 'a/1.jpg'"),
        ("1.jpg\n", "'1.jpg', the key of 2 training images"),
        ("a/2.jpg\n2.jpg\n", "'2.jpg', again"),
        ("\n", "is empty"),
    ],
)
def test_a_list_that_does_not_fit_is_a_sentence(tmp_path, text, says):
    path = tmp_path / "some.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        read_list(str(path), listing("a/1.jpg", "a/2.jpg", "b/1.jpg"))


def test_a_list_that_is_missing_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="no.txt' does not exist"):
        read_list(str(tmp_path / "no.txt"), listing("a"))

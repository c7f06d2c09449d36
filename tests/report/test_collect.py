import json
import math
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from parsed_page import Page
from pictures import copy_photos
from sklearn.neighbors import KNeighborsClassifier

from byol_tf import build, runs
from byol_tf.checkpoints import trackable
from byol_tf.configs import cifar10_demo
from byol_tf.errors import UserError
from byol_tf.evaluation.features import Features
from byol_tf.report import collect as module
from byol_tf.report import run_page
from byol_tf.report.collect import accuracy_by_class, collect

CLASSES = ("airplane", "bird", "frog")


@pytest.fixture(scope="module")
def data(images_dir, tmp_path_factory):
    """Training and test images; one training image is corrupt."""
    path = tmp_path_factory.mktemp("data")
    train = copy_photos(images_dir / "train", path / "train", CLASSES, 20)
    (train / "airplane" / "0000_corrupt.jpg").write_bytes(b"\xff\xd8 no image")
    return train, copy_photos(images_dir / "test", path / "test", CLASSES, 8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with only its encoder saved."""
    path = tmp_path_factory.mktemp("run")
    config = cifar10_demo.get_config("smoke")
    runs.claim_run_dir(str(path), config.to_dict() | {"examples": 60, "classes": CLASSES})
    keras.utils.set_random_seed(7)
    saved = tf.train.Checkpoint(encoder=trackable(build.build_encoder(config)))
    tf.train.Checkpoint(model=saved).save(str(path / "checkpoints" / "ckpt"))
    (path / "history.csv").write_text("epoch,step,loss,knn_accuracy\n1,7,2.5,\n2,14,nan,0.5\n")
    return path


@pytest.fixture(scope="module")
def labelled(trained, data):
    return collect(str(trained), *map(str, data))


def record(train, test):
    return {
        "rows": [], "command": "", "date": "", "model": "",
        "train": {"source": str(train)}, "test": {"source": str(test)},
    }  # fmt: skip


def features(angles, labels):
    radians = np.radians(angles)
    unit = np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)
    return Features(unit, np.array(labels, np.int32), np.array([b""] * len(angles), object))


def test_accuracy_by_class_is_as_counted_by_hand():
    train = features([0, 90, 180], [0, 1, 2])
    # 80° is nearest to 90°, so one of three a's is wrong; no example is a c.
    test = features([5, 85, 10, 80], [0, 1, 0, 0])
    a, b = accuracy_by_class(train, test, ("a", "b", "c"))
    assert (a.name, a.accuracy, a.examples) == ("a", pytest.approx(2 / 3), 3)
    assert (b.name, b.accuracy, b.examples) == ("b", 1.0, 1)
    assert b.low == pytest.approx(1 / (1 + 1.959964**2)) and b.high == 1  # Wilson of 1 of 1.
    assert a.low < 2 / 3 < a.high


def test_classes_add_up_to_what_scikit_learn_counts(labelled):
    images = labelled.images
    assert [one.name for one in images.classes] == list(CLASSES) and images.k == 60
    vote = KNeighborsClassifier(
        60, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07)
    )
    vote.fit(images.train.embeddings.astype(np.float64), images.train.labels)
    hits = vote.predict(images.test.embeddings.astype(np.float64)) == images.test.labels
    assert images.overall.accuracy == pytest.approx(hits.mean()) and images.overall.examples == 24
    for label, one in enumerate(images.classes):
        assert one.accuracy == pytest.approx(hits[images.test.labels == label].mean())


def test_pictures_are_the_files_of_their_keys(labelled, data):
    images = labelled.images
    assert len(images.train.keys) == images.num_train == 60, "the corrupt one does not count"
    for gallery, folder in zip((images.train, images.test), data, strict=True):
        assert gallery.images
        for position, file in gallery.images.items():
            assert file == (folder / gallery.keys[position]).read_bytes()


def test_a_run_is_read_as_it_was_written(labelled, trained):
    first, second = labelled.history
    assert first == {"epoch": 1, "step": 7, "loss": 2.5}
    assert math.isnan(second["loss"]) and second["knn_accuracy"] == 0.5
    assert labelled.config["encoder"]["width"] == 0.25
    assert labelled.checkpoint.endswith("ckpt-1") and labelled.made["versions"]["keras"]


def test_of_many_images_an_even_part_is_taken(trained, data, monkeypatch):
    monkeypatch.setattr(module, "_TRAIN_IMAGES", 30)
    monkeypatch.setattr(module, "_TEST_IMAGES", 6)
    images = collect(str(trained), str(data[0]), str(data[1])).images
    assert np.bincount(images.test.labels).tolist() == [2, 2, 2] and images.num_test == 24
    assert 29 <= len(images.train.keys) <= 30 and images.k == len(images.train.keys)
    assert all(images.train.images.values()) and all(images.test.images.values())


def test_without_labels_of_the_same_classes_none_are_compared(trained, data, images_dir, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in sorted((images_dir / "test" / "bird").glob("*.jpg"))[:5]:
        (flat / file.name).write_bytes(file.read_bytes())
    others = copy_photos(images_dir / "test", tmp_path / "others", ("bird", "cat", "frog"), 3)
    for test, why in ((flat, "Without labels"), (others, "do not have the same classes")):
        images = collect(str(trained), str(data[0]), str(test)).images
        assert why in images.unlabelled and not images.classes and images.overall is None
        assert images.train.labels is None and images.test.labels is None
        assert len(images.test.images) > 4 and len(images.train.images) >= 8


def test_images_are_those_of_the_evaluation(trained, data):
    path = trained / "evaluation.json"
    other = trained / "evaluation-transfer.json"
    other.write_text(json.dumps(record("voc:nowhere:train", "voc:nowhere:test")))
    path.write_text(json.dumps(record(*data)))
    try:
        run = collect(str(trained))
        assert run.images.num_test == 24 and not run.no_images
        assert list(run.evaluations) == ["evaluation.json", "evaluation-transfer.json"]
        # The images have moved: the page goes without, unless a flag asked for them.
        path.write_text(json.dumps(record("gone", data[1])))
        run = collect(str(trained))
        assert run.images is None and "'gone' does not exist" in run.no_images
        with pytest.raises(UserError, match="'gone' does not exist"):
            collect(str(trained), test_dir=str(data[1]))
    finally:
        path.unlink()
        other.unlink()


def test_one_set_of_images_asks_for_the_other(trained, data):
    with pytest.raises(UserError, match="give both --train_dir and --test_dir"):
        collect(str(trained), train_dir=str(data[0]))
    assert "give both --train_dir" in collect(str(trained)).no_images


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError, match=f"'{tmp_path}' holds no run"):
        collect(str(tmp_path))


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps(record(1, 2) | {"model": None})])
def test_a_record_that_is_none_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(UserError, match="evaluation.json' is not a record of byol-evaluate"):
        collect(str(tmp_path))


def test_images_without_a_checkpoint_are_an_error_only_where_asked_for(trained, data, tmp_path):
    (tmp_path / "config.json").write_text((trained / "config.json").read_text())
    with pytest.raises(UserError, match="no checkpoint yet"):
        collect(str(tmp_path), *map(str, data))
    (tmp_path / "evaluation.json").write_text(json.dumps(record(*data)))
    assert "no checkpoint yet" in collect(str(tmp_path)).no_images


@pytest.mark.parametrize(
    "method, name, caption, fields",
    [
        ("byol", "BYOL", "8 at most", "base_ema"),
        ("simclr", "SimCLR", "ln(2B − 1)", "temperature"),
        ("barlow_twins.BarlowTwins", "Barlow Twins", "from the identity", "projection_size"),
        ("gone.Method", "gone.Method", "", None),  # Not importable where the page is made.
    ],
)
def test_a_page_names_the_method_and_explains_its_loss(tmp_path, method, name, caption, fields):
    config = cifar10_demo.get_config("smoke")
    config.method = method
    runs.claim_run_dir(str(tmp_path), config.to_dict() | {"examples": 60, "classes": []})
    (tmp_path / "history.csv").write_text("epoch,step,loss\n1,7,2.5\n")
    run = collect(str(tmp_path))
    assert run.method == name and caption in run.loss_caption
    assert bool(run.loss_caption) == bool(caption)
    text = Page(run_page.render(run)).text
    assert f"{tmp_path.name}: {name} {name} {tmp_path.name}" in text and run.loss_caption in text
    if fields:
        assert f"{name} {fields} {config[fields]}" in text


def test_pages_are_rendered_without_tensorflow():
    code = "import sys, byol_tf.report.run_page; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert {"tensorflow", "keras", "sklearn"}.isdisjoint(loaded)

"""LinearProbe and Evaluator on classes that cannot be measured, on real records and an export."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from quick_recipe import quick

from byol_tf import build, export
from byol_tf.configs import cifar10, defaults
from byol_tf.errors import UserError

pytestmark = pytest.mark.slow


@pytest.fixture
def inputs(images_dir, tmp_path):
    """An encoder, and examples of two classes; those of cats in the split train were corrupt."""
    from tfx.v1.types import standard_artifacts

    config = quick(cifar10.get_config).to_dict()
    layers = [keras.Input((32, 32, 3)), keras.layers.AveragePooling2D(4), keras.layers.Flatten()]
    path = tmp_path / "model" / "Format-Serving"
    export.save_encoder(
        keras.Sequential(layers, name="tiny"), path, image_size=32, metadata={"config": config}
    )
    for split, classes in {"train": ("cat", None, "dog"), "eval": ("cat", "cow", "dog")}.items():
        folder = tmp_path / "examples" / f"Split-{split}"
        folder.mkdir(parents=True)
        with tf.io.TFRecordWriter(str(folder / "data_tfrecord-00000-of-00001.gz"), "GZIP") as file:
            for label, name in enumerate(classes):
                images = sorted((images_dir / "train" / "bird").iterdir())[:10] if name else []
                for image in images:
                    example = tf.train.Example()
                    features = {
                        "image/encoded": image.read_bytes(), "image/label": label,
                        "image/label_text": name.encode(), "image/key": f"{name}{image}".encode(),
                    }  # fmt: skip
                    for key, value in features.items():
                        kind = "int64_list" if isinstance(value, int) else "bytes_list"
                        getattr(example.features.feature[key], kind).value.append(value)
                    file.write(example.SerializeToString())
    encoder, examples = standard_artifacts.Model(), standard_artifacts.Examples()
    encoder.uri, examples.uri = str(tmp_path / "model"), str(tmp_path / "examples")
    examples.split_names = '["train", "eval"]'
    for artifact in (encoder, examples):
        artifact.set_string_custom_property("tfx_version", "1.15.1")
    return {"encoder": [encoder], "examples": [examples]}


@pytest.fixture
def grey(tmp_path):
    """An encoder of grey images of 16 bits, and such images of two classes."""
    from tfx.v1.types import standard_artifacts

    config = cifar10.get_config("smoke").copy_and_resolve_references()
    with config.unlocked():
        defaults.set_channels(config, 1)
        config.update(bit_depth=16, normalize={"mean": (0.392,), "std": (0.001,)})
    layers = [keras.Input((32, 32, 1)), keras.layers.AveragePooling2D(4), keras.layers.Flatten()]
    export.save_encoder(
        keras.Sequential(layers, name="tiny"),
        tmp_path / "model" / "Format-Serving",
        preprocessing=build.preprocessing_from_config(config),
        metadata={"config": config.to_dict()},
    )
    random = np.random.default_rng(0)
    for split in ("train", "eval"):
        folder = tmp_path / "examples" / f"Split-{split}"
        folder.mkdir(parents=True)
        with tf.io.TFRecordWriter(str(folder / "data_tfrecord-00000-of-00001.gz"), "GZIP") as file:
            for number in range(24):
                label = number % 2  # In the lower 8 of the 16 bits: at 8, the classes are equal.
                pixels = random.integers(0, 40, (32, 32, 1)) + 25600 + 120 * label
                example = tf.train.Example()
                features = {
                    "image/encoded": tf.io.encode_png(pixels.astype(np.uint16)).numpy(),
                    "image/label": label,
                    "image/label_text": b"ab"[label : label + 1],
                    "image/key": f"{split}{number}".encode(),
                }
                for key, value in features.items():
                    kind = "int64_list" if isinstance(value, int) else "bytes_list"
                    getattr(example.features.feature[key], kind).value.append(value)
                file.write(example.SerializeToString())
    encoder, examples = standard_artifacts.Model(), standard_artifacts.Examples()
    encoder.uri, examples.uri = str(tmp_path / "model"), str(tmp_path / "examples")
    examples.split_names = '["train", "eval"]'
    for artifact in (encoder, examples):
        artifact.set_string_custom_property("tfx_version", "1.15.1")
    return {"encoder": [encoder], "examples": [examples]}


def test_classes_that_differ_in_the_lower_bits_of_16_are_told_apart(grey, probed, tmp_path):
    from pipelines.components.linear_probe.executor import Executor

    Executor().Do(grey, {"model": [probed]}, {"views": 0, "decides": 1})
    rows = json.loads((tmp_path / "probed" / "evaluation.json").read_text())["rows"]
    assert len(rows) == 3  # With a random encoder and raw pixels, of one channel, too.
    assert rows[0]["linear"]["top_1"] == 1.0
    classifier = tf.saved_model.load(
        str(next((tmp_path / "probed").glob("**/saved_model.pb")).parent)
    )
    images = tf.fill([1, 32, 32, 1], tf.constant(25740, tf.uint16))
    assert classifier.signatures["pixels"].structured_input_signature[1]["images"].shape[-1] == 1
    assert classifier.signatures["pixels"](images=images)


@pytest.fixture
def probed(tmp_path):
    from tfx.v1.types import standard_artifacts

    model = standard_artifacts.Model()
    model.uri = str(tmp_path / "probed")
    (tmp_path / "probed").mkdir()
    return model


def test_labels_that_do_not_decide_do_not_stop_the_run(inputs, probed, tmp_path, caplog):
    from tfx.v1.types import standard_artifacts

    from pipelines.components.evaluator.executor import Executor as Evaluator
    from pipelines.components.linear_probe.executor import Executor

    with caplog.at_level("WARNING", "absl"):
        Executor().Do(inputs, {"model": [probed]}, {"views": 0, "decides": 0})
    reason = probed.get_string_custom_property("unmeasured")
    assert "labels the training set does not have: [1]" in reason
    assert any(f"no accuracy is reported: {reason}" in message for message in caplog.messages)
    (path,) = (tmp_path / "probed").iterdir()
    assert json.loads(path.read_text())["rows"] == []

    blessing = standard_artifacts.ModelBlessing()
    Evaluator().Do({"model": [probed]}, {"blessing": [blessing]}, {})
    assert not blessing.has_custom_property("blessed")


def test_labels_that_decide_stop_it(inputs, probed):
    from pipelines.components.linear_probe.executor import Executor

    with pytest.raises(UserError, match="labels the training set does not have"):
        Executor().Do(inputs, {"model": [probed]}, {"views": 0, "decides": 1})

"""LinearProbe and Evaluator on classes that cannot be measured, on real records and an export."""

import json

import keras
import pytest
import tensorflow as tf
from quick_recipe import quick

from byol_tf import export
from byol_tf.configs import cifar10
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

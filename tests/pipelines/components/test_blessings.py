"""Which models are blessed: the executors that decide in a run, on real exports and files."""

import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from pictures import encoded
from PIL import Image

from byol_tf import export
from byol_tf.export import classifier
from byol_tf.images.preprocessing import Preprocessing

pytestmark = pytest.mark.slow
SIZE = 16


def artifact(kind, uri, number=1):
    """Makes an artifact as ML Metadata would give it to an executor."""
    made = kind()
    made.uri, made.id = str(uri), number
    made.set_string_custom_property("tfx_version", "1.15.1")
    return made


def examples(folder, contents, labels):
    """Makes an Examples artifact whose split eval has the images."""
    from tfx.v1.types import standard_artifacts

    split = folder / "Split-eval"
    split.mkdir(parents=True)
    path = str(split / "data_tfrecord-00000-of-00001.gz")
    with tf.io.TFRecordWriter(path, "GZIP") as writer:
        for number, (content, label) in enumerate(zip(contents, labels, strict=True)):
            features = {
                "image/encoded": content, "image/format": b"PNG",
                "image/pixels": b"3 channels, 8 bit", "image/height": SIZE, "image/width": SIZE,
                "image/key": b"%d" % number, "image/label": label,
                "image/label_text": (b"dark", b"bright")[label],
            }  # fmt: skip
            example = tf.train.Example()
            for name, value in features.items():
                kind = "int64_list" if isinstance(value, int) else "bytes_list"
                getattr(example.features.feature[name], kind).value.append(value)
            writer.write(example.SerializeToString())
    made = artifact(standard_artifacts.Examples, folder)
    made.split_names = '["eval"]'
    return made


def blessed(outputs) -> bool:
    return outputs["blessing"][0].get_int_custom_property("blessed") == 1


@pytest.fixture
def outputs(tmp_path):
    from tfx.v1.types import standard_artifacts

    def make(name):
        kinds = {
            "evaluation": standard_artifacts.ModelEvaluation,
            "blessing": standard_artifacts.ModelBlessing,
        }
        for key in kinds:
            (tmp_path / name / key).mkdir(parents=True)
        return {key: [artifact(kind, tmp_path / name / key)] for key, kind in kinds.items()}

    return make


def test_classifier_that_loses_to_the_last_blessed_is_not_blessed(tmp_path, outputs):
    """Brightness is the class: one classifier recognises it, another always says dark."""
    from tfx.components.evaluator.executor import Executor
    from tfx.utils import proto_utils
    from tfx.v1.types import standard_artifacts

    from pipelines.pipeline import eval_config
    from pipelines.settings import RECORDS_SCHEMA, Settings

    rng = np.random.default_rng(0)
    labels = [number % 2 for number in range(40)]
    contents = [
        encoded(Image.fromarray(rng.integers(20, 80, (SIZE, SIZE, 3), np.uint8) + 150 * y), "PNG")
        for y in np.array(labels, np.uint8)
    ]
    data = examples(tmp_path / "examples", contents, labels)
    encoder = keras.Sequential(
        [keras.Input((SIZE, SIZE, 3)), keras.layers.GlobalAveragePooling2D()]
    )
    export.save_encoder(encoder, tmp_path / "encoder" / "1", preprocessing=Preprocessing(SIZE, 1.0))
    models = {}
    weights = {"good": ([[-1.0, 1.0]] * 3, [0.0, 0.0]), "bad": ([[0.0, 0.0]] * 3, [1.0, 0.0])}
    for number, (name, (kernel, bias)) in enumerate(weights.items(), 1):
        path = tmp_path / name / "Format-Serving"
        classifier.save_classifier(
            tmp_path / "encoder" / "1", kernel, bias, ["dark", "bright"], path
        )
        models[name] = artifact(standard_artifacts.Model, tmp_path / name, number)
    (tmp_path / "schema").mkdir()
    shutil.copy(RECORDS_SCHEMA, tmp_path / "schema" / "schema.pbtxt")
    schema = artifact(standard_artifacts.Schema, tmp_path / "schema")

    def verdict(candidate, baseline, min_accuracy):
        settings = Settings(
            "d", "r", "s", {"image_size": SIZE}, labels="folders", min_accuracy=min_accuracy
        )
        inputs = {"examples": [data], "model": [models[candidate]], "schema": [schema]}
        if baseline:
            inputs["baseline_model"] = [models[baseline]]
        made = outputs(f"{candidate}-{baseline}-{min_accuracy}")
        properties = {
            "eval_config": proto_utils.proto_to_json(eval_config(settings)),
            "example_splits": json.dumps(["eval"]),
        }
        Executor().Do(inputs, made, properties)
        return blessed(made)

    assert verdict("good", None, min_accuracy=0.99)
    assert not verdict("bad", None, min_accuracy=0.6)
    assert not verdict("bad", "good", min_accuracy=0.0)
    assert verdict("good", "bad", min_accuracy=0.0)


def exported(folder, number, *layers):
    """Exports an encoder of these layers as the artifact of a model."""
    from tfx.v1.types import standard_artifacts

    keras.utils.set_random_seed(number)
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), *layers])
    path = folder / str(number) / "Format-Serving"
    export.save_encoder(model, path, preprocessing=Preprocessing(SIZE, 1.0))
    return artifact(standard_artifacts.Model, folder / str(number), number)


def judged(made, data, candidate, baseline=None, min_spread=0.1):
    """Runs RepresentationCheck; returns its outputs and its rules by name."""
    from pipelines.components.representation_check.executor import Executor

    inputs = {"examples": [data], "model": [candidate]}
    if baseline:
        inputs["baseline_model"] = [baseline]
    Executor().Do(inputs, made, {"min_spread": min_spread, "max_measure_loss": 0.02})
    rules = json.loads((pathlib.Path(made["evaluation"][0].uri) / "measures.json").read_text())
    return made, {rule["name"]: rule for rule in rules["rules"]}


def test_collapsed_encoder_is_not_blessed(tmp_path, outputs, images_dir):
    files = sorted((images_dir / "test").glob("*/*.jpg"))[::10]
    data = examples(tmp_path / "examples", [f.read_bytes() for f in files], [0] * len(files))
    convolution, flatten = keras.layers.Conv2D(16, 5, 2), keras.layers.Flatten()
    alive = exported(
        tmp_path, 1, convolution, flatten, keras.layers.Dense(8, bias_initializer="ones")
    )
    to_a_point = exported(
        tmp_path, 2, flatten, keras.layers.Dense(8, "relu", False, kernel_initializer="zeros")
    )
    assert blessed(judged(outputs("first"), data, alive)[0])
    assert not blessed(judged(outputs("collapsed"), data, to_a_point)[0])
    made, _ = judged(outputs("same"), data, alive, baseline=alive)
    blessing = made["blessing"][0]
    assert blessed(made) and blessing.get_int_custom_property("current_model_id") == 1
    assert not blessed(judged(outputs("loses"), data, to_a_point, baseline=alive)[0])


def test_encoder_that_no_longer_tells_turns_is_not_blessed_if_the_images_can_show_it(
    tmp_path, outputs
):
    """Landscapes with a bright sky: one encoder sees where it is, the other the mean colour."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 150, (60, SIZE, SIZE, 3), np.uint8)
    pictures[:, : SIZE // 2] += 100
    contents = [encoded(Image.fromarray(picture), "PNG") for picture in pictures]
    many = examples(tmp_path / "many", contents, [0] * 60)
    few = examples(tmp_path / "few", contents[:17], [0] * 17)
    sees = exported(
        tmp_path, 1, keras.layers.AveragePooling2D(4), keras.layers.Flatten(), keras.layers.Dense(8)
    )
    blind = exported(tmp_path, 2, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(8))

    made, rules = judged(outputs("worse"), many, blind, baseline=sees, min_spread=0.0)
    assert not blessed(made) and not rules["rotation_accuracy"]["passed"]
    assert "more than chance" in rules["rotation_accuracy"]["explanation"]
    assert rules["rotation_accuracy"]["value"] < 0.4 < rules["rotation_accuracy"]["baseline"]
    made, rules = judged(outputs("better"), many, sees, baseline=blind, min_spread=0.0)
    assert blessed(made) and rules["rotation_accuracy"]["value"] > 0.4
    made, rules = judged(outputs("few"), few, blind, baseline=sees, min_spread=0.0)
    assert blessed(made)
    assert "17 images are too few to judge" in rules["rotation_accuracy"]["explanation"]

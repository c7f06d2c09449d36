"""Which models are blessed: the executors that decide in a run, on real exports and files."""

import json
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
                "image/encoded": content, "image/format": b"PNG", "image/height": SIZE,
                "image/width": SIZE, "image/key": b"%d" % number, "image/label": label,
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


def test_collapsed_encoder_is_not_blessed(tmp_path, outputs, images_dir):
    from tfx.v1.types import standard_artifacts

    from pipelines.components.representation_check.executor import Executor

    files = sorted((images_dir / "test").glob("*/*.jpg"))[::10]
    data = examples(tmp_path / "examples", [f.read_bytes() for f in files], [0] * len(files))

    def encoder(name, number, final):
        keras.utils.set_random_seed(number)
        model = keras.Sequential(
            [
                keras.Input((SIZE, SIZE, 3)),
                keras.layers.Conv2D(16, 5, 2),
                keras.layers.Flatten(),
                keras.layers.Dense(8, kernel_initializer=final, bias_initializer="ones"),
            ]
        )
        path = tmp_path / name / "Format-Serving"
        export.save_encoder(model, path, preprocessing=Preprocessing(SIZE, 1.0))
        return artifact(standard_artifacts.Model, tmp_path / name, number)

    alive = encoder("alive", 1, "glorot_uniform")
    to_a_point = encoder("point", 2, "zeros")

    def verdict(candidate, baseline=None):
        made = outputs(f"{candidate.id}-{baseline and baseline.id}")
        inputs = {"examples": [data], "model": [candidate]}
        if baseline:
            inputs["baseline_model"] = [baseline]
        Executor().Do(inputs, made, {"min_spread": 0.1, "max_measure_loss": 0.25})
        return blessed(made), made["blessing"][0]

    assert verdict(alive)[0]
    assert not verdict(to_a_point)[0]
    passed, blessing = verdict(alive, baseline=alive)
    assert passed and blessing.get_int_custom_property("current_model_id") == 1
    assert not verdict(to_a_point, baseline=alive)[0]

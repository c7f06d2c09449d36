import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from commands import refusal
from quick_recipe import quick

from byol_tf import build, runs
from byol_tf.checkpoints import trackable
from byol_tf.export import save_encoder


def export(*flags):
    command = [sys.executable, "-m", "byol_tf.cli.export", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    config = quick()
    runs.claim_run_dir(str(path), config.to_dict() | {"examples": 16, "classes": []})
    encoder = build.build_encoder(config)
    step = tf.Variable(0, dtype=tf.int64)
    saved = tf.train.Checkpoint(model=tf.train.Checkpoint(encoder=trackable(encoder), step=step))
    for _ in range(2):
        step.assign_add(1)
        saved.save(str(path / "checkpoints" / "ckpt"))
        encoder.weights[0].assign_add(tf.ones_like(encoder.weights[0]))
    record = {"model": str(path / "checkpoints" / "ckpt-2"), "rows": ["accuracies"]}
    (path / "evaluation.json").write_text(json.dumps(record))
    return path


@pytest.fixture(scope="module")
def image(images_dir):
    return (images_dir / "test" / "frog" / "0001.jpg").read_bytes()


def embedding(path, image):
    model = tf.saved_model.load(str(path))
    result = model.signatures["serving_default"](image_bytes=tf.constant([image]))
    return result["embedding"].numpy()


def expected(run_dir, name, image):
    config = runs.load_config(str(run_dir))
    encoder = runs.restore_encoder(str(run_dir), str(run_dir / "checkpoints" / name))
    images = build.preprocessing_from_config(config).from_bytes(tf.constant([image]))
    return encoder(images, training=False).numpy()


def test_the_latest_checkpoint_becomes_a_saved_model(run_dir, image, tmp_path):
    path = tmp_path / "photos" / "1"
    result = export(f"--run_dir={run_dir}", f"--output={path}")
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"The encoder is in {path}.\n"
    np.testing.assert_allclose(
        embedding(path, image), expected(run_dir, "ckpt-2", image), rtol=0, atol=1e-5
    )
    card = json.loads((path / "assets.extra" / "model_card.json").read_text())
    assert card["checkpoint"].endswith("ckpt-2") and card["config"]["image_size"] == 32
    assert card["evaluation"]["rows"] == ["accuracies"]


@pytest.mark.slow
def test_an_earlier_checkpoint_is_exported_without_the_figures_of_the_latest(
    run_dir, image, tmp_path
):
    path = tmp_path / "photos"
    earlier = run_dir / "checkpoints" / "ckpt-1"
    result = export(f"--run_dir={run_dir}", f"--checkpoint={earlier}", f"--output={path}")
    assert result.returncode == 0, result.stderr
    assert result.stdout == (
        f"The encoder is in {path} (step 1 of 2: the training is not finished).\n"
    )
    assert "TF Serving needs a number as version, and 'photos' is not a number" in result.stderr
    np.testing.assert_allclose(
        embedding(path, image), expected(run_dir, "ckpt-1", image), rtol=0, atol=1e-5
    )
    card = json.loads((path / "assets.extra" / "model_card.json").read_text())
    assert card["evaluation"] is None


def test_a_missing_run_gets_a_sentence(tmp_path):
    result = export(f"--run_dir={tmp_path}", f"--output={tmp_path / '1'}")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "holds no run" in result.stderr.splitlines()[-1]


def test_missing_flags_are_named(tmp_path):
    result = export(f"--run_dir={tmp_path}")
    assert result.returncode == 1 and "Flag --output must have a value" in result.stderr


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--output=1"], "give either --run_dir or --saved_model"),
        (["--run_dir=r", "--saved_model=m", "--output=1"], "give either --run_dir or"),
        (["--saved_model=m", "--output=1"], "'m' is a SavedModel already; give another --format"),
        (["--run_dir=r", "--output=a.onnx"], "add --format=onnx, or give a folder"),
        (["--run_dir=r", "--format=onnx", "--quantize=int8", "--output=a.onnx"], "is for --format"),
        (["--run_dir=r", "--format=tflite", "--quantize=int8", "--output=a.tflite"], "needs --ima"),
        (["--run_dir=r", "--images=i", "--output=1"], "--images is for the other formats"),
        (["--saved_model=m", "--checkpoint=c", "--output=a.onnx", "--format=onnx"], "--checkpoint"),
    ],
)
def test_flags_that_contradict_each_other_get_a_sentence(flags, sentence):
    assert sentence in refusal("byol_tf.cli.export", *flags)


def test_a_pushed_saved_model_becomes_a_keras_file(run_dir, image, tmp_path):
    config = runs.load_config(str(run_dir))
    preprocessing = build.preprocessing_from_config(config)
    encoder = runs.restore_encoder(str(run_dir))
    metadata = {"config": config.to_dict(), "code": "abc"}
    save_encoder(encoder, tmp_path / "1", preprocessing=preprocessing, metadata=metadata)
    path = tmp_path / "photos.keras"
    result = export(f"--saved_model={tmp_path / '1'}", "--format=keras", f"--output={path}")
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"The encoder is in {path}.\n"
    images = preprocessing.from_bytes(tf.constant([image]))
    np.testing.assert_allclose(
        keras.models.load_model(path)(images, training=False),
        encoder(images, training=False),
        rtol=0,
        atol=1e-5,
    )
    assert json.loads((tmp_path / "photos.keras.card.json").read_text())["code"] == "abc"


def test_a_saved_model_without_a_config_gets_a_sentence(tmp_path):
    pool = keras.layers.GlobalAveragePooling2D()
    encoder = keras.Sequential([keras.Input((8, 8, 3)), pool])
    save_encoder(encoder, tmp_path / "1", image_size=8)
    flags = [f"--saved_model={tmp_path / '1'}", "--format=keras", "--output=a.keras"]
    assert "has no config to build a Keras model from" in refusal("byol_tf.cli.export", *flags)

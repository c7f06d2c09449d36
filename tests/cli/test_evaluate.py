import functools
import json

import keras
import pytest
import tensorflow as tf
from commands import refusal, run_command
from pictures import copy_photos
from quick_recipe import quick

from byol_tf import build, export, runs
from byol_tf.checkpoints import trackable

CLASSES = ("airplane", "bird", "frog")


evaluate = functools.partial(run_command, "byol_tf.cli.evaluate")
error = functools.partial(refusal, "byol_tf.cli.evaluate")


@pytest.fixture(scope="module")
def data(images_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    train = copy_photos(images_dir / "train", path / "train", CLASSES, 20)
    test = copy_photos(images_dir / "test", path / "test", CLASSES, 20)
    return f"--train_dir={train}", f"--test_dir={test}"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run with only its encoder saved, whose weights come from another seed."""
    path = tmp_path_factory.mktemp("run")
    config = quick()
    runs.claim_run_dir(str(path), config.to_dict())
    keras.utils.set_random_seed(7)
    encoder = build.build_encoder(config)
    saved = tf.train.Checkpoint(model=tf.train.Checkpoint(encoder=trackable(encoder)))
    saved.save(str(path / "checkpoints" / "ckpt"))
    export.save_encoder(
        encoder,
        path / "exported" / "1",
        preprocessing=build.preprocessing_from_config(config),
        metadata={"config": config.to_dict()},
    )
    return path


@pytest.mark.slow
def test_a_run_becomes_a_table_and_a_record(run_dir, data):
    result = evaluate(f"--run_dir={run_dir}", *data, "--config.linear.views=1")
    assert result.returncode == 0, result.stderr
    record = json.loads((run_dir / "evaluation.json").read_text())
    (row,) = record["rows"]
    assert row["encoder"] == "BYOL" and row["linear"]["num_test"] == 60
    assert f"| {100 * row['knn']['top_1']:.1f} " in result.stdout
    assert f"| {100 * row['linear']['top_1']:.1f} [" in result.stdout
    assert f"--run_dir={run_dir}" in record["command"] and record["command"] in result.stdout
    assert "byol-evaluate --config=evaluation " in record["command"]
    assert record["train"]["examples"] == 60 and record["model"].endswith("ckpt-1")

    # The exported encoder is the same encoder and carries the config that the baselines need.
    path = run_dir / "exported"
    result = evaluate(
        f"--saved_model={path / '1'}", *data, "--baselines", "--protocol=knn",
        f"--output={path / 'results.json'}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "kNN" in result.stdout and "linear" not in result.stdout
    assert (
        len(list(run_dir.glob("features/*.features"))) == 3
    )  # Train, test and one view, for the run only.
    exported = json.loads((path / "results.json").read_text())
    assert exported["config_fingerprint"] == record["config_fingerprint"]
    rows = {row["encoder"]: row["knn"] for row in exported["rows"]}
    assert list(rows) == ["BYOL", "random encoder", "raw pixels"]
    assert rows["BYOL"] == row["knn"]
    # The run's weights come from another seed than its config's.
    assert rows["random encoder"] != rows["BYOL"]


def test_help_explains_the_flags():
    result = evaluate("--help")
    assert "byol-evaluate: evaluates a pretrained encoder" in result.stdout
    assert "--train_dir: Labelled training images" in result.stdout


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--train_dir=a", "--test_dir=b"], "Exactly one of (run_dir, saved_model)"),
        (["--run_dir=run", "--test_dir=b"], "Flag --train_dir must have a value"),
        (
            ["--run_dir=run", "--train_dir=a", "--test_dir=b", "--protocol=knn,svm"],
            "give one or more of depth, detection, fine_tuning, knn, linear, ",
        ),
        (
            ["--run_dir=run", "--train_dir=a", "--test_dir=b", "--config=cifar10"],
            "--config has no section 'knn'; give evaluation",
        ),
        (
            ["--run_dir=run", "--train_dir=a", "--test_dir=b", "--config.linear.view=1"],
            "a --config override does not fit",
        ),
    ],
)
def test_a_wrong_flag_is_named(flags, sentence):
    assert sentence in error(*flags)


def test_a_folder_for_the_results_is_asked_for_before_the_work(run_dir, data, tmp_path):
    output = tmp_path / "missing" / "results.json"
    message = error(f"--run_dir={run_dir}", *data, f"--output={output}")
    assert f"error: there is no folder for '{output}'" in message

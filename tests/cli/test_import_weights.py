"""byol-import as a user runs it: its SavedModel is served, evaluated and fine-tuned."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from commands import refusal, run_command
from pictures import copy_photos
from serve import Server

from byol_tf import encoders, weights
from serving.client import EmbeddingClient

MODULE = "byol_tf.cli.import_weights"
ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "weights"
FILES = [ROOT / name for name in json.loads((GOLDEN / "versions.json").read_text())["images"]]
NAME = "solo-learn-resnet18.ckpt"


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    path = tmp_path_factory.mktemp("imported") / "cifar" / "1"
    result = run_command(MODULE, GOLDEN / NAME, f"--output={path}")
    assert result.returncode == 0, result.stderr
    return path, result.stdout


@pytest.mark.slow
def test_the_served_embedding_is_the_frameworks(imported):
    path, printed = imported
    assert "resnet18_0.03125x of PyTorch tensors with torchvision's names" in printed
    assert "images of 32 pixels, centre crop 1, bilinear" in printed and str(path) in printed
    contents = tf.constant([file.read_bytes() for file in FILES])
    model = tf.saved_model.load(str(path))
    embedding = model.signatures["serving_default"](image_bytes=contents)["embedding"]
    wanted = np.load(GOLDEN / "embeddings.npz")[NAME]
    np.testing.assert_allclose(embedding, wanted, rtol=0, atol=1e-4)
    card = json.loads((path / "assets.extra" / "model_card.json").read_text())
    assert card["weights"]["source"].startswith("PyTorch tensors")
    assert card["weights"]["fingerprint"] == weights.read(str(GOLDEN / NAME)).fingerprint
    assert card["config"]["encoder"]["stem"] == "solo-learn"


@pytest.mark.slow
def test_it_is_evaluated_fine_tuned_and_trained_from_like_an_export_of_ours(imported):
    path, _ = imported
    pretrained, config = encoders.from_saved_model(str(path))
    assert pretrained.name == "imported" and config.image_size == 32
    images = pretrained.preprocessing.from_bytes([file.read_bytes() for file in FILES])
    wanted = np.load(GOLDEN / "embeddings.npz")[NAME]
    for encode in (pretrained.encode, pretrained.trainable()):
        np.testing.assert_allclose(encode(images, training=False), wanted, rtol=0, atol=1e-4)
    baseline = encoders.random_encoder(config, pretrained.preprocessing)
    assert baseline.fingerprint != pretrained.fingerprint
    assert weights.read(str(path)).fingerprint == weights.read(str(GOLDEN / NAME)).fingerprint


@pytest.mark.slow
def test_byol_evaluate_takes_it_with_its_baselines(imported, images_dir):
    path, _ = imported
    split = images_dir / "test"
    result = run_command(
        "byol_tf.cli.evaluate",
        *(f"--saved_model={path}", f"--train_dir={split}", f"--test_dir={split}"),
        *("--protocol=knn", "--baselines"),
    )
    assert result.returncode == 0, result.stderr
    for row in ("imported", "random encoder", "raw pixels"):
        assert row in result.stdout


@pytest.mark.slow
def test_deepminds_weights_are_evaluated_and_served(images_dir, tmp_path):
    name = "deepmind-resnet18.pkl"
    path = tmp_path / "deepmind" / "1"
    result = run_command(MODULE, GOLDEN / name, f"--output={path}")
    assert result.returncode == 0, result.stderr
    assert "images of 224 pixels, centre crop 0.875, bicubic" in result.stdout

    # Each test image is a training image too.
    photos = copy_photos(images_dir / "test", tmp_path / "photos", ("bird", "frog", "ship"), 4)
    result = run_command(
        "byol_tf.cli.evaluate",
        *(f"--saved_model={path}", f"--train_dir={photos}", f"--test_dir={photos}"),
        *("--protocol=knn", "--config.knn.k=1", f"--output={tmp_path / 'results.json'}"),
    )
    assert result.returncode == 0, result.stderr
    (row,) = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert row["encoder"] == "BYOL" and row["knn"]["top_1"] == 1

    flags = ("--model_name=imported", f"--model_base_path={path.parent}")
    with (
        Server(tmp_path / "log", *flags) as server,
        EmbeddingClient(server.address, "imported") as client,
    ):
        embedding = client.embed(FILES)
    wanted = np.load(GOLDEN / "embeddings.npz")[name]
    np.testing.assert_allclose(embedding, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ([], "give FILE"),
        (["nowhere.pth"], "there are no weights 'nowhere.pth'"),
        ([GOLDEN / NAME, "--mean=a,b,c"], "--mean must be numbers, one for each channel"),
        ([GOLDEN / NAME, "--std=1,1"], "mean has 3 values and std 2; give --mean and --std with 3"),
        ([GOLDEN / NAME, "--crop_fraction=2"], r"crop_fraction must be in"),
        ([GOLDEN / "embeddings.npz"], "is not a kind of weights that is known"),
    ],
)
def test_mistakes_are_one_sentence(flags, sentence, tmp_path):
    assert sentence in refusal(MODULE, *flags, f"--output={tmp_path / '1'}")
    assert not (tmp_path / "1").exists()

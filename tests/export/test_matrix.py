"""Runs every cell of the table in docs/matrix.md that does not say why it is not run."""

import functools
import json
import pathlib
import re

import exported_files
import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from byol_tf import build, export, runs, weights
from byol_tf.checkpoints import trackable
from byol_tf.configs import cifar10_demo, defaults
from byol_tf.images.preprocessing import Preprocessing, to_unit_range
from byol_tf.weights import imported

ROOT = pathlib.Path(__file__).resolve().parents[2]
TABLE = re.findall(r"^\| (.*) \|$", (ROOT / "docs" / "matrix.md").read_text(), re.MULTILINE)
FORMATS = ["saved_model", "onnx", "tflite", "int8", "keras"]
ENCODERS = {
    "`resnet`": ("resnet", {"depth": 10, "width": 0.25, "stem": "small"}),
    "`vit`": ("vit", {"patch_size": 8, "width": 16, "depth": 1, "heads": 2}),
    "your function": ("own_encoders.tiny", {}),
    "`MobileNetV3Small`": ("MobileNetV3Small", {"alpha": 0.35}),
    "grouped convolutions, GroupNorm, LayerNorm, GELU": ("own_encoders.mixed", {}),
}
GOLDEN = ROOT / "tests" / "golden" / "weights"
FILES = {"PyTorch": "solo-learn-resnet18.ckpt", "DeepMind": "deepmind-resnet18.pkl"}
PREPROCESSING = Preprocessing(32, 0.8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
TOLERANCE = 1e-4


def cells():
    """Yields (encoder, weights, format, what the cell says) for each cell."""
    header, _, *rows = [row.split(" | ") for row in TABLE]
    assert [name.replace("`", "").split(", ")[-1] for name in header[2:]] == FORMATS
    for encoder, source, *row in rows:
        for name, cell in zip(FORMATS, row, strict=True):
            yield encoder, source, name, cell


RUN = [
    pytest.param(*where, marks=[pytest.mark.exhaustive] * (cell == "slow"), id="-".join(where))
    for *where, cell in cells()
    if not cell.startswith("not run")
]


def test_each_cell_is_run_or_says_why_not():
    last = ""
    for *where, cell in cells():
        assert re.fullmatch("yes|slow|not run: .{5,}", cell), where
        assert cell != "not run: the same" or last.startswith("not run"), where
        last = cell


def built(encoder, source):
    """Returns the encoder and its config; unless new, also what starts as 0 or 1 is random."""
    name, arguments = ENCODERS[encoder]
    config = cifar10_demo.get_config("smoke").copy_and_resolve_references()
    defaults.set_encoder(config, name, **arguments)
    keras.utils.set_random_seed(0)
    model = build.build_float32_encoder(config)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) < 2 and source != "new":
            weight.assign(rng.uniform(0.3, 0.9, weight.shape))
    return model, config


@functools.cache
def exportable(encoder, source, folder):
    """Returns the encoder, what is exported as it (from a file, if that is the source of its
    weights), and the preprocessing."""
    if source in FILES:
        model, config = imported.build(weights.read(str(GOLDEN / FILES[source])))
        return model, model, build.preprocessing_from_config(config)
    model, config = built(encoder, source)
    if source in ("drawn", "new"):
        return model, model, PREPROCESSING
    if source == "SavedModel":
        export.save_encoder(model, folder / "1", preprocessing=PREPROCESSING)
        return model, folder / "1", PREPROCESSING
    if source == "a run":
        runs.claim_run_dir(str(folder / "run"), config.to_dict())
        saved = tf.train.Checkpoint(encoder=trackable(model))
        tf.train.Checkpoint(model=saved).save(str(folder / "run" / "checkpoints" / "ckpt"))
        return model, runs.restore_encoder(str(folder / "run")), PREPROCESSING
    assert source == "`.keras`"
    model.save(folder / "encoder.keras")
    other = build.build_float32_encoder(config)
    weights.read(str(folder / "encoder.keras")).assign_to(other)
    return model, other, PREPROCESSING


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return functools.cache(lambda *names: tmp_path_factory.mktemp("matrix"))


@pytest.fixture(scope="module")
def pictures(photos):
    """Two photos `[H, W, 3]`, the second one enlarged."""
    return photos[0], np.asarray(Image.fromarray(photos[20]).resize((97, 61)))


def write(exported, name, path, preprocessing, photos):
    """Writes the file or folder that this format exports."""
    given = preprocessing if isinstance(exported, keras.Model) else None  # A SavedModel has it.
    if name == "saved_model":
        export.save_encoder(exported, path, preprocessing=given)
    elif name == "onnx":
        export.save_onnx(exported, path, preprocessing=given)
    elif name == "keras":
        export.save_keras(exported, path, preprocessing=given)
    else:
        quantize, images = ("int8", photos) if name == "int8" else (None, None)
        export.save_tflite(exported, path, preprocessing=given, quantize=quantize, images=images)


@pytest.mark.parametrize(("encoder", "source", "name"), RUN)
def test_the_runtime_gives_the_encoders_embeddings(
    encoder, source, name, folder, pictures, photos, tmp_path
):
    if name == "onnx":
        pytest.importorskip("tf2onnx")
    model, exported, preprocessing = exportable(encoder, source, folder(encoder, source))
    path = tmp_path / {"saved_model": "1", "int8": "1.tflite"}.get(name, f"1.{name}")
    write(exported, name, path, preprocessing, photos)
    run = exported_files.RUN[name](path)

    if name in ("tflite", "int8"):  # The caller crops and resizes, and rounds.
        squares = np.round(255 * preprocessing.unnormalized()(photos[::4]).numpy())
        inputs = preprocessing.normalize(to_unit_range(squares.astype(np.float32)))
        results, expected = run(squares.astype(np.uint8)), model(inputs, training=False).numpy()
    elif name == "keras":
        inputs = preprocessing(photos[::4])
        results, expected = run(inputs), model(inputs, training=False).numpy()
    elif source in FILES:  # What PyTorch and haiku gave.
        names = json.loads((GOLDEN / "versions.json").read_text())["images"]
        results = run(np.stack([np.asarray(Image.open(ROOT / file)) for file in names]))
        expected = np.load(GOLDEN / "embeddings.npz")[FILES[source]]
    else:
        results, expected = (
            np.concatenate([embed(picture[np.newaxis]) for picture in pictures])
            for embed in (run, lambda images: model(preprocessing(images), training=False).numpy())
        )
    assert np.ptp(expected, axis=0).max() > 1e-2 * np.abs(expected).max()  # Not one for all images.
    if name == "int8":
        assert exported_files.cosines(results, expected).min() >= 0.99
    else:
        atol = TOLERANCE * max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(results, expected, rtol=0, atol=atol)

"""Encoders exported with one TensorFlow and served with another: the classic and current stacks.

`BYOL_OTHER_PYTHON=/path/to/python python -m pytest tests/serving/test_stacks.py`, where that Python
is of the other stack.
"""

import json
import os
import subprocess
import sys

import export_encoder
import numpy as np
import pytest
import tensorflow as tf
from serve import ROOT, Server

from byol_tf.images.preprocessing import Preprocessing
from serving.client import EmbeddingClient

OTHER = os.environ.get("BYOL_OTHER_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not OTHER, reason="BYOL_OTHER_PYTHON does not name a Python with another TensorFlow"
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`this/1` and `other/1`: the same encoder, exported with this Python and with the other."""
    folder = tmp_path_factory.mktemp("stacks")
    for name, python in (("this", sys.executable), ("other", OTHER)):
        subprocess.run(
            [python, export_encoder.__file__, str(folder / name / "1")],
            check=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    versions = {
        json.loads((folder / name / "1" / "assets.extra" / "model_card.json").read_text())[
            "versions"
        ]["tensorflow"]
        for name in ("this", "other")
    }
    assert len(versions) == 2, f"BYOL_OTHER_PYTHON has the same TensorFlow, {versions}"
    (folder / "models.config").write_text(
        "model_config_list {"
        + "".join(
            f'config {{ name: "{name}" base_path: "{folder}/{name}" model_platform: "tensorflow" }}'
            for name in ("this", "other")
        )
        + "}"
    )
    return folder


@pytest.fixture(scope="module")
def images(images_dir):
    """JPEG files and, as the last two, the first of them as a PNG file and as an array."""
    files = sorted((images_dir / "test").glob("*/000[01].jpg"))
    decoded = tf.io.decode_jpeg(files[0].read_bytes(), dct_method="INTEGER_ACCURATE").numpy()
    png = tf.io.encode_png(decoded).numpy()
    return [*files, png, decoded]


@pytest.fixture(scope="module")
def expected(images):
    """Embeddings by the encoder in memory, `[N, D]`."""
    files = [tf.io.read_file(str(file)) for file in images[:-2]] + [images[-2]]
    inputs = Preprocessing(export_encoder.SIZE).from_bytes(tf.stack(files))
    values = export_encoder.build()(inputs, training=False).numpy()
    return np.concatenate([values, values[-1:]])


@pytest.mark.parametrize("server", ["this", "other"])
def test_exports_of_both_load_in_the_server_of_either(folder, images, expected, server):
    python = sys.executable if server == "this" else OTHER
    log = folder / f"{server}.log"
    with Server(log, f"--model_config_file={folder}/models.config", python=python) as running:
        for address in (running.address, running.url):
            for model in ("this", "other"):
                with EmbeddingClient(address, model) as client:
                    embeddings = client.embed(images)
                np.testing.assert_allclose(embeddings, expected, rtol=1e-4, atol=1e-4)

"""Encoders of other frameworks give the embeddings that their frameworks gave of real images.

The files in tests/golden/weights were written by PyTorch and haiku, which need not be installed
here; tests/support/make_weights.py made them.
"""

import json
import pathlib

import numpy as np
import pytest

from byol_tf import build, weights
from byol_tf.weights import imported

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "weights"
EMBEDDINGS = np.load(GOLDEN / "embeddings.npz")
FILES = [ROOT / name for name in json.loads((GOLDEN / "versions.json").read_text())["images"]]

SYMMETRIC = {"padding": "symmetric", "c2_projection": False}
NETWORKS = {
    "torchvision-resnet18.pth": {"depth": 18, "width": 1 / 32, "stem": "imagenet", **SYMMETRIC},
    "torchvision-resnet50.safetensors": {
        **{"depth": 50, "width": 1 / 32, "stem": "imagenet"},
        **SYMMETRIC,
    },
    "lightly-resnet18.ckpt": {"depth": 18, "width": 1 / 32, "stem": "imagenet", **SYMMETRIC},
    "lightly-generator-resnet9.pth": {"depth": 10, "width": 1 / 32, "stem": "lightly", **SYMMETRIC},
    "solo-learn-resnet18.ckpt": {"depth": 18, "width": 1 / 32, "stem": "solo-learn", **SYMMETRIC},
    "deepmind-resnet18.pkl": {
        **{"depth": 18, "width": 1 / 32, "stem": "imagenet"},
        **{"padding": "same", "c2_projection": True},
    },
    "deepmind-resnet50.pkl": {
        **{"depth": 50, "width": 1 / 64, "stem": "imagenet"},
        **{"padding": "same", "c2_projection": False},
    },
}


def test_each_file_has_an_embedding():
    assert set(EMBEDDINGS.files) == set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_imported_encoder_gives_its_frameworks_embedding(name):
    found = weights.read(str(GOLDEN / name))
    assert found.encoder == NETWORKS[name]
    encoder, config = imported.build(found)
    preprocess = build.preprocessing_from_config(config)
    images = preprocess.from_bytes([file.read_bytes() for file in FILES])
    embedding, wanted = encoder(images, training=False).numpy(), EMBEDDINGS[name]
    assert np.ptp(wanted) > 0.1  # Not the same for any image.
    np.testing.assert_allclose(embedding, wanted, rtol=0, atol=1e-4)

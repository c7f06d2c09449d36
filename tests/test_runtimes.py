"""The blocks of docs/runtimes.md run as printed, one after the other."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import tensorflow as tf
from pictures import copy_photos
from quick_recipe import quick

from byol_tf import build, runs
from byol_tf.checkpoints import trackable

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "runtimes.md").read_text()


@pytest.mark.slow
def test_blocks_run_as_printed(images_dir, tmp_path):
    for package in ("onnxruntime", "tf2onnx", "ai_edge_litert"):
        pytest.importorskip(package)
    run_dir = tmp_path / "demo" / "run"
    config = quick()
    runs.claim_run_dir(str(run_dir), config.to_dict() | {"examples": 16, "classes": []})
    saved = tf.train.Checkpoint(encoder=trackable(build.build_encoder(config)))
    tf.train.Checkpoint(model=saved).save(str(run_dir / "checkpoints" / "ckpt"))
    classes = [folder.name for folder in (images_dir / "test").iterdir()]
    copy_photos(images_dir / "test", tmp_path / "photos", classes, 4)
    shutil.copy(images_dir / "test" / "frog" / "0001.jpg", tmp_path / "photo.jpg")

    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    library = f"{ROOT}:{os.environ['PYTHONPATH']}"
    shells = {"python": [sys.executable, "-c"], "sh": ["sh", "-ec"]}
    blocks = re.findall(r"<!-- run -->\n```(python|sh)\n(.*?)```", PAGE, re.DOTALL)
    printed = []
    for language, code in blocks:
        result = subprocess.run(
            [*shells[language], code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
            env=os.environ | {"PATH": path, "PYTHONPATH": library},
        )
        assert result.returncode == 0, result.stderr[-3000:]
        printed.append(result.stdout.strip())
    size = build.build_encoder(config).output_shape[-1]
    assert printed == [
        "The encoder is in photos.onnx.",
        f"(1, {size})",
        "The encoder is in photos.tflite.",
        f"(1, {size})",
        "The encoder is in photos.keras.",
        "",
    ]
    card = json.loads((tmp_path / "photos.tflite.card.json").read_text())
    assert card["compared"]["images"] == 10 and card["compared"]["lowest_cosine"] >= 0.99


def test_what_was_not_run_says_so():
    """Each block that no test runs is below words that say so."""
    for section in PAGE.split("\n## ")[1:]:
        marks = re.findall(r"(<!-- run -->\n)?^```\w*\n.*?^```$", section, re.MULTILINE | re.DOTALL)
        if not all(marks):
            assert re.search(r"[Nn]ot run\s+here", section), section.splitlines()[0]

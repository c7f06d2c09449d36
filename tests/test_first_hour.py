"""The first hour with one's own photos, by the commands, on a folder as people have them."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import messy_folder
import numpy as np
import pyarrow.parquet
import pytest
from commands import run_command
from pictures import copy_photos

ROOT = pathlib.Path(__file__).resolve().parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]  # Four runs of the pipeline: minutes.


def succeeds(module: str, *arguments: object) -> str:
    """Runs a command that must succeed; returns all that it says."""
    result = run_command(module, *arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


def interrupted(module: str, arguments: list[str], at: str) -> str:
    """Starts a command, presses Ctrl-C when it says `at`, and returns what it says after that."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    for line in process.stdout:
        if at in line:
            process.send_signal(signal.SIGINT)
            break
    rest = process.stdout.read()
    assert process.wait(120) == 130, rest[-3000:]
    return rest


def test_dry_run_run_add_delete_interrupt_run_embed_change_embed_search(tmp_path, images_dir):
    pytest.importorskip("tfx")
    taken = copy_photos(images_dir / "train", tmp_path / "taken", ("bird", "ship", "truck"), 20)
    photos = tmp_path / "photos"
    facts = messy_folder.build(photos, taken)
    root, serving = tmp_path / "pipeline", tmp_path / "serving"
    pipeline = [
        "--config=cifar10:smoke", "--config.batch_size=16", "--config.precision=float32",
        "--config.knn_every_epochs=0", "--max_corrupt_fraction=0.1", f"--data_dir={photos}",
        f"--pipeline_root={root}", f"--serving_model_dir={serving}",
    ]  # fmt: skip

    said = succeeds("pipelines.runners.local", *pipeline, "--dry_run")
    total = len(facts.images) + len(facts.corrupt)
    assert f"{total} images" in said and "Time: about" in said, said
    assert f"{len(facts.skipped)} entries are skipped" in said, said
    assert f"{len(facts.other)} files of other kinds not read" in said, said
    assert "--labels=folders" in said, said
    assert not root.exists() and not serving.exists()

    said = interrupted("pipelines.runners.local", pipeline, at="Trainer")
    assert "interrupted" in said and "Traceback" not in said, said

    said = succeeds("pipelines.runners.local", *pipeline)
    assert "was pushed" in said, said
    (first,) = (serving / "byol").iterdir()
    (quarantine,) = root.glob("ImageExampleGen/examples/*/quarantine.tsv")
    listed = {line.split("\t")[0] for line in quarantine.read_text().splitlines()}
    assert listed == facts.corrupt
    report = max((root / "reports").glob("*.html")).read_text()
    assert f"{len(facts.other)} files of other kinds not read" in report

    # Photos come and go: that is no reason to stop.
    copy_photos(images_dir / "train", photos, ["frog"], 12)
    for path in sorted((photos / "ship").glob("0*.jpg"))[:2]:
        path.unlink()
    said = succeeds("pipelines.runners.local", *pipeline)
    assert "was pushed" in said, said
    assert len(list((serving / "byol").iterdir())) == 2 and first.exists()

    output = tmp_path / "photos.parquet"
    embed = [f"--saved_model={serving / 'byol'}", f"--output={output}", "--index"]
    readable = len(facts.images) + 12 - 2
    said = succeeds("serving.search.embed", *embed, photos)
    assert f"{readable} embeddings, {readable} of them new" in said, said
    assert f"could not be embedded ({len(facts.corrupt)})" in said, said

    changed, deleted = sorted((photos / "truck").iterdir())[:2]
    before = dict(zip(*_columns(output), strict=True))
    shutil.copy(sorted((photos / "frog").iterdir())[0], changed)
    deleted.unlink()
    said = succeeds("serving.search.embed", *embed, "--prune", photos)
    assert "1 of changed images" in said and "1 of deleted images dropped" in said, said
    after = dict(zip(*_columns(output), strict=True))
    assert len(after) == readable - 1
    moved = [key for key in after if not np.allclose(after[key], before[key], atol=1e-4)]
    assert [pathlib.Path(key).name for key in moved] == [changed.name]

    page = tmp_path / "neighbours.html"
    query = photos / "bird" / "duplicate.jpg"
    said = succeeds(
        "serving.search.neighbors", f"--embeddings={output}", f"--saved_model={serving / 'byol'}",
        f"--images_dir={photos}", f"--output={page}", "--k=3", query,
    )  # fmt: skip
    original = sorted((taken / "bird").iterdir())[0].name
    assert re.search(rf"  1\.000  \S*bird/{re.escape(original)}\n", said), said
    assert page.read_text().count("<img") >= 4


def _columns(parquet: pathlib.Path) -> tuple[list[str], list[np.ndarray]]:
    table = pyarrow.parquet.read_table(parquet)
    return table["key"].to_pylist(), [np.array(row) for row in table["embedding"].to_pylist()]

"""The README's blocks run as printed, one after the other; links of all pages lead somewhere."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest
from pictures import copy_photos

ROOT = pathlib.Path(__file__).resolve().parent.parent


PAGES = [
    p for where in ("", "docs/**/", "examples/", "serving/") for p in ROOT.glob(f"{where}*.md")
]


def readme_blocks() -> list[tuple[str, list[str]]]:
    """(how, command) of each block marked to be run."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(
        r"<!-- (run|run in the background) -->\n```(python|sh)\n(.*?)```", text, re.DOTALL
    )
    shells = {"python": [sys.executable, "-c"], "sh": ["sh", "-ec"]}
    return [(how, [*shells[language], code]) for how, language, code in blocks]


@pytest.mark.slow
def test_blocks_run_as_printed(tmp_path):
    blocks = readme_blocks()
    assert [how for how, _ in blocks] == ["run", "run in the background", "run", "run"]
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    where = {
        "cwd": tmp_path,
        "text": True,
        "env": os.environ | {"PYTHONPATH": str(ROOT), "PATH": path},
    }
    printed = []
    with contextlib.ExitStack() as stack:
        for how, command in blocks:
            if how == "run":
                result = subprocess.run(command, capture_output=True, timeout=900, **where)
                assert result.returncode == 0, result.stderr[-3000:]
                printed.append(result.stdout.splitlines())
            else:
                server = subprocess.Popen(
                    command, stderr=subprocess.PIPE, start_new_session=True, **where
                )
                stack.callback(os.killpg, server.pid, signal.SIGTERM)
                assert any("REST on" in line for line in server.stderr), "it ended too early"
    assert printed[1][-1] == "(4, 128)"
    assert (
        "photos.parquet: 2500 embeddings" in printed[2][0]
        and printed[2][-1] == "The page is like.html."
    )
    assert (tmp_path / "like.html").stat().st_size > 10_000


@pytest.mark.slow
def test_keras_example_trains_and_exports(tmp_path):
    """On 16 images per class beside it, one step; the README's block has the same steps on all."""
    shutil.copy(ROOT / "examples" / "fit.py", tmp_path)
    images = ROOT / "examples" / "images" / "train"
    classes = [folder.name for folder in images.iterdir()]
    copy_photos(images, tmp_path / "images" / "train", classes, 16)
    result = subprocess.run(
        [
            sys.executable,
            str(tmp_path / "fit.py"),
            "--epochs=1",
            f"--output={tmp_path / 'encoder' / '1'}",
        ],
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "encoder" / "1" / "saved_model.pb").is_file()


def anchors(page: pathlib.Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    broken = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 1200
    assert not [line for line in text.splitlines() if len(line) > 100]

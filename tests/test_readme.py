"""The README's Python blocks run as printed, one after the other, from a copy of the repository's root."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_python_blocks_run_as_printed(tmp_path):
    blocks = re.findall(r"<!-- run -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    result = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)], cwd=tmp_path, capture_output=True, text=True, timeout=900,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.splitlines()[-1] == "(4, 128)"


@pytest.mark.slow
def test_keras_example_trains_and_exports(tmp_path):
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "fit.py"), "--epochs=1", f"--output={tmp_path / 'encoder' / '1'}"],
        capture_output=True, text=True, timeout=900, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "encoder" / "1" / "saved_model.pb").is_file()


def test_files_the_readme_points_at_exist():
    links = re.findall(r"\]\((?!http)([\w./-]+)\)", (ROOT / "README.md").read_text())
    assert links and not [link for link in links if not (ROOT / link).exists()]

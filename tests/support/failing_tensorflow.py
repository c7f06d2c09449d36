"""A stand-in for a TensorFlow that cannot be imported on this machine."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
WRITTEN = "compiled to use AVX instructions, but these aren't available"


def errors_of(command: str, *flags: str, folder: pathlib.Path, end: str) -> str:
    """Returns the standard error of a module's command, with such a TensorFlow.

    Args:
        command: Dotted name of the module.
        *flags: Its flags.
        folder: Empty folder, to put the stand-in into.
        end: Python expression with which its import ends.
    """
    package = folder / "tensorflow"
    package.mkdir()
    (package / "__init__.py").write_text(f"import os\nos.write(2, b{WRITTEN!r})\n{end}\n")
    result = subprocess.run(
        [sys.executable, "-m", command, *flags],
        env=os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode != 0
    return result.stderr

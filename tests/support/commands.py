"""Commands as a user starts them, each a process."""

import subprocess
import sys
from typing import Any


def run_command(module: str, *flags: Any) -> subprocess.CompletedProcess:
    """Runs `python -m module` with these flags; output is captured as text."""
    command = [sys.executable, "-m", module, *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def refusal(module: str, *flags: Any) -> str:
    """Returns the message of a command that must fail without a stack trace."""
    result = run_command(module, *flags)
    assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
    return result.stderr

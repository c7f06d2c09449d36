"""The lock of a folder: one holder at a time, and a killed one holds nothing."""

import subprocess
import sys

import pytest

from byol_tf import locks
from byol_tf.errors import UserError

HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="^taken$"), locks.exclusive(str(tmp_path), "taken"):
            raise AssertionError("both hold the lock")
        holder.kill()
    with locks.exclusive(str(tmp_path), "taken"):
        pass
    with locks.exclusive(str(tmp_path), "taken"):
        pass


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(file, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with locks.exclusive(str(tmp_path), "taken"):
        pass
    assert "has no locks (Operation not supported)" in caplog.text

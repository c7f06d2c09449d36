"""A metadata.sqlite that cannot be read: one sentence, and the file stays as it is."""

import os
import random
import subprocess
import sys

import apache_beam as beam
import pytest
from apache_beam.runners.portability import prism_runner

from byol_tf.errors import UserError
from pipelines import run_metadata
from pipelines.runners import local_run
from pipelines.settings import Settings

pytestmark = pytest.mark.slow  # Imports TFX.

LOCK = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(600)
"""


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Settings with a metadata store, whose pipeline must not begin to run."""
    settings = Settings("d", str(tmp_path), "serving", {"image_size": 32})
    run_metadata.open_store(settings)
    monkeypatch.setattr(local_run, "create_pipeline", lambda settings: None)
    return settings


@pytest.mark.parametrize("damage", ["noise", "cut", "noise inside"])
def test_damaged_metadata_is_one_sentence(settings, damage):
    with open(settings.metadata_path, "rb") as file:
        content = file.read()
    noise = random.Random(0).randbytes(len(content))
    content = {
        "noise": noise,
        "cut": content[: len(content) // 2],
        "noise inside": content[:4096] + noise[4096:],
    }[damage]
    with open(settings.metadata_path, "wb") as file:
        file.write(content)
    with pytest.raises(UserError, match="metadata.sqlite' is damaged"):
        local_run.run(settings)
    with open(settings.metadata_path, "rb") as file:
        assert file.read() == content


def test_beam_runs_in_this_process_and_downloads_no_other_runner(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(
        prism_runner.PrismRunner, "run_pipeline", lambda *arguments: begun.append(arguments)
    )
    path = tmp_path / "process"
    with beam.Pipeline() as pipeline:
        _ = pipeline | beam.Create([path]) | beam.Map(lambda p: p.write_text(str(os.getpid())))
    assert path.read_text() == str(os.getpid()) and not begun


@pytest.mark.exhaustive  # ML Metadata tries again for half a minute.
def test_locked_metadata_is_one_sentence(settings):
    command = [sys.executable, "-c", LOCK, settings.metadata_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "locked\n"
            with pytest.raises(UserError, match="metadata.sqlite' is locked by another process"):
                local_run.run(settings)
        finally:
            holder.kill()
    assert os.path.exists(settings.metadata_path)

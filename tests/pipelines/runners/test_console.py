"""What reaches the terminal, and what only pipeline.log."""

import logging as std_logging
import os
import sys

import pytest
from absl import logging

from byol_tf.training import pretrain
from pipelines.runners import console


@pytest.fixture
def shown(monkeypatch, capfd):
    """A function that returns what has been written to descriptor 2, as a terminal would show."""
    monkeypatch.setattr(std_logging, "raiseExceptions", True)
    verbosity = logging.get_verbosity()
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    handler = logging.get_absl_handler().python_handler
    stream, handler.stream = handler.stream, sys.stderr
    yield lambda: capfd.readouterr().err
    handler.stream = stream
    logging.set_verbosity(verbosity)


def say(path: str, message: str, *args: str) -> None:
    record = std_logging.LogRecord("absl", std_logging.INFO, path, 1, message, args, None)
    std_logging.getLogger().handle(record)


def component(name: str, cached: bool) -> None:
    """Logs what TFX 1.15.1 logs of a component."""
    say("/tfx/orchestration/local/local_dag_runner.py", "Component %s is running.", name)
    if cached:
        say("/tfx/orchestration/portable/launcher.py", "A cached execution 7 is used.")
    else:
        say("/tfx/orchestration/portable/launcher.py", "Going to run a new execution %d", 7)
        say("/tfx/orchestration/portable/launcher.py", "Going to run a new execution: %s", "{}")


def test_the_terminal_has_our_messages_and_the_components_that_run(tmp_path, shown):
    with console.log_to(str(tmp_path)):
        os.write(2, b"E cuda_dnn.cc:9261] Unable to register cuDNN factory\n")
        say("/clones/byol_tf/.venv/site-packages/google/cloud/models.py", "will be removed")
        say(pretrain.__file__, "58 images, %s steps", "3")
        component("StatisticsGen", cached=True)
        component("Trainer", cached=False)
        print("100% of a progress bar", file=sys.stderr)
    print("after", file=sys.stderr)
    lines = [line.partition("] ")[2] or line for line in shown().splitlines()]
    lines = [line for line in lines if "before flag parsing" not in line]  # absl's, in tests only.
    assert lines == ["58 images, 3 steps", "Trainer is running", "100% of a progress bar", "after"]
    log = (tmp_path / "pipeline.log").read_text()
    for text in ("Unable to register cuDNN", "will be removed", "Component StatisticsGen is"):
        assert text in log


def test_a_dry_run_drops_the_rest_and_writes_no_file(tmp_path, shown, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError), console.quiet():
        os.write(2, b"Unable to register cuDNN factory\n")
        raise ZeroDivisionError
    os.write(2, b"back\n")
    assert shown() == "back\n" and not os.listdir(tmp_path)

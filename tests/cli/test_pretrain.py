"""The command as a user types it: help at once, one sentence for a mistake, exit status."""

import subprocess
import sys

import pytest
from failing_tensorflow import WRITTEN, errors_of


def byol_pretrain(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "byol_tf.cli.pretrain", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_help_explains_every_flag():
    result = byol_pretrain("--help")
    for text in ("--config", "--data_dir", "--run_dir", "--strategy", "mirrored", "continued"):
        assert text in result.stdout


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--data_dir=x", "--run_dir=y", "--strategy=horovod"], "horovod"),
        (["--run_dir=y"], "data_dir"),
        ([], "Flags --config, --data_dir, --run_dir must have values"),
        (
            ["--data_dir=x", "--run_dir=y", "--config=cifar10:foo"],
            "give cifar10, cifar10:larc, cifar10:lightly, cifar10:smoke.",
        ),
        (
            ["--data_dir=x", "--run_dir=y", "--config=cifar10", "extra"],
            "unexpected argument 'extra'",
        ),
        (
            ["--data_dir=x", "--run_dir=y", "--config=nothing"],
            "error: --config=nothing is neither a recipe nor a file; give a recipe (imagenet, ",
        ),
        (
            ["--data_dir=x", "--run_dir=y", "--config=nothing", "--config.epochs=1"],
            "error: --config=nothing is neither a recipe nor a file; give a recipe (imagenet, ",
        ),
        (["--data_dir=x", "--run_dir=y"], "--config"),
        (["--data_dir=x", "--run_dir=y", "--config=cifar10", "--config.epoch=3"], "epoch"),
        (["--data_dir=x", "--run_dir=y", "--config=imagenet:55"], "imagenet:55"),
    ],
)
def test_bad_flags_get_a_sentence_and_no_trace(arguments, sentence):
    result = byol_pretrain(*arguments)
    assert result.returncode != 0
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "end, shown",
    [
        ("raise ImportError('no libcudart')", f"{WRITTEN}Traceback"),
        # The process is gone before it can show what was hidden; its stack says where.
        ("os.abort()", "Fatal Python error: Aborted"),
    ],
)
def test_an_import_of_tensorflow_that_fails_shows_why(tmp_path, end, shown):
    flags = ("--config=cifar10:smoke", "--data_dir=x", "--run_dir=y")
    errors = errors_of("byol_tf.cli.pretrain", *flags, folder=tmp_path, end=end)
    assert shown in errors and str(tmp_path / "tensorflow" / "__init__.py") in errors


def test_missing_and_empty_folders_get_one_sentence(tmp_path):
    for folder in (tmp_path / "missing", tmp_path):
        result = byol_pretrain(
            "--config=cifar10:smoke", f"--data_dir={folder}", f"--run_dir={tmp_path / 'run'}"
        )
        assert result.returncode == 1
        lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        # One line in all: nothing of what TensorFlow writes while it starts.
        assert result.stderr.splitlines() == lines
        assert len(lines) == 1 and str(folder) in lines[0]
    assert not (tmp_path / "run").exists()

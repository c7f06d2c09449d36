"""The record of an evaluation: what was measured, by which command, where; and its table.

A record is a JSON object, so that tables of docs/results are made from files, not from memory.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import platform
import subprocess
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import byol_tf


def as_record(rows: dict[str, dict[str, Any]], **about: Any) -> dict[str, Any]:
    """The record of one evaluation.

    Args:
        rows: encoder's name → protocol → result (a dataclass).
        about: what else to keep: command, model, train, test, wall_seconds, and more.
    """
    measured = [
        {"encoder": name}
        | {protocol: dataclasses.asdict(result) for protocol, result in results.items()}
        for name, results in rows.items()
    ]
    return about | environment() | {"rows": measured}


def as_json(record: dict[str, Any]) -> str:
    """The text of a record's file."""
    return json.dumps(record, indent=2) + "\n"


def as_table(record: dict[str, Any]) -> str:
    """The record's rows as a Markdown table, and below it how they came about."""
    columns = {"encoder": lambda row: row["encoder"]}
    if "knn" in record["rows"][0]:
        columns["kNN top-1, %"] = lambda row: _percent(row["knn"]["top_1"])
    if "linear" in record["rows"][0]:
        columns["linear top-1, % [95 % interval]"] = lambda row: "{} [{}, {}]".format(
            _percent(row["linear"]["top_1"]), *map(_percent, row["linear"]["interval"])
        )
        columns["linear top-5, %"] = lambda row: _percent(row["linear"]["top_5"])
    cells = [list(columns), *([cell(row) for cell in columns.values()] for row in record["rows"])]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([*lines, "", _caption(record)])


def environment() -> dict[str, Any]:
    """Date, commit (None outside a git checkout), versions and hardware."""
    gpus = tf.config.list_physical_devices("GPU")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(pathlib.Path(byol_tf.__file__)),
        "versions": {
            "byol_tf": byol_tf.__version__,
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
        "hardware": {
            "cpu": _cpu_model(),
            "cpus": os.cpu_count(),
            "gpus": [_gpu_model(gpu) for gpu in gpus],
        },
    }


def _caption(record: dict[str, Any]) -> str:
    hardware = record["hardware"]
    facts = [
        f"{record['train']['examples']} training and {record['test']['examples']} test images",
        record["model"],
        ", ".join(hardware["gpus"]) or f"{hardware['cpus']} CPUs ({hardware['cpu']})",
        f"{record['wall_seconds']:.0f} s",
        f"commit {record['commit'] or 'unknown'}",
        record["date"][:10],
    ]
    return f"`{record['command']}`\n\n{'; '.join(facts)}."


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _commit(file: pathlib.Path) -> str | None:
    """The commit of the checkout that `file` is part of, with -dirty where files were changed."""

    def git(*arguments):
        command = ["git", "-C", str(file.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # Not that of another checkout, inside which this package is installed.
        git("ls-files", "--error-unmatch", file.name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None


def _gpu_model(gpu) -> str:
    return tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)


def _cpu_model() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()

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
    measured = []
    for name, results in rows.items():
        row = {protocol: dataclasses.asdict(result) for protocol, result in results.items()}
        cells = {}
        for result in results.values():
            cells |= result.cells()
        measured.append({"encoder": name} | row | {"cells": cells})
    return about | environment() | {"rows": measured}


def as_json(record: dict[str, Any]) -> str:
    """The text of a record's file."""
    return json.dumps(record, indent=2) + "\n"


def as_table(record: dict[str, Any]) -> str:
    """The record's rows as a Markdown table, and below it how they came about."""
    rows = {row["encoder"]: row["cells"] for row in record["rows"]}
    return "\n".join([markdown(rows), "", _caption(record)])


def markdown(rows: dict[str, dict[str, str]], corner: str = "encoder") -> str:
    """A Markdown table: name → header → text; a cell that a row lacks is a dash.

    Args:
        rows: the rows in order; columns are in the order in which they are first met.
        corner: the header of the names.
    """
    headers = list(dict.fromkeys(header for cells in rows.values() for header in cells))
    cells = [
        [corner, *headers],
        *([name, *(row.get(header, "-") for header in headers)] for name, row in rows.items()),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def percent(fraction: float, interval: tuple[float, float] | None = None) -> str:
    """A cell: "52.2", or "52.2 [51.3, 53.2]" with a confidence interval."""
    text = f"{100 * fraction:.1f}"
    return text if interval is None else f"{text} [{', '.join(map(percent, interval))}]"


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
        f"{_images(record['train'])} for training, {_images(record['test'])} for the test",
        record["model"],
        ", ".join(hardware["gpus"]) or f"{hardware['cpus']} CPUs ({hardware['cpu']})",
        f"{record['wall_seconds']:.0f} s",
        f"commit {record['commit'] or 'unknown'}",
        record["date"][:10],
    ]
    return f"`{record['command']}`\n\n{'; '.join(facts)}."


def _images(split: dict[str, Any]) -> str:
    return f"{split['examples']} images" if "examples" in split else f"'{split['source']}'"


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

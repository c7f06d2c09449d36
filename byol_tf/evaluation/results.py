"""The record of an evaluation (results, command, environment) and its table.

A record is a JSON object, so that the tables of docs/results are generated from files.
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
    """Returns the record of one evaluation.

    Args:
        rows: Results (dataclasses) by encoder name and protocol.
        about: Further entries of the record: command, model, train, test, wall_seconds, and more.
    """
    measured = []
    for name, results in rows.items():
        row = {protocol: dataclasses.asdict(result) for protocol, result in results.items()}
        cells: dict[str, str] = {}
        for result in results.values():
            cells |= result.cells()
        measured.append({"encoder": name} | row | {"cells": cells})
    return about | environment() | {"rows": measured}


def as_json(record: dict[str, Any]) -> str:
    """Returns a record as the text of its file."""
    return json.dumps(record, indent=2) + "\n"


def as_table(record: dict[str, Any]) -> str:
    """Returns a record's rows as a Markdown table, followed by the command and the setting."""
    rows = {row["encoder"]: row["cells"] for row in record["rows"]}
    return "\n".join([markdown(rows), "", _caption(record)])


def markdown(rows: dict[str, dict[str, str]], corner: str = "encoder") -> str:
    """Returns a Markdown table; a missing cell is a dash.

    Args:
        rows: Cells by row name and header, in order; columns are ordered by first occurrence.
        corner: Header of the column of row names.
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
    """Returns the text of a cell: "52.2", or "52.2 [51.3, 53.2]" with a confidence interval."""
    text = f"{100 * fraction:.1f}"
    return text if interval is None else f"{text} [{', '.join(map(percent, interval))}]"


def environment() -> dict[str, Any]:
    """Returns date, commit (None outside a git checkout), versions and hardware."""
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
    """Returns the commit of the checkout `file` is part of, with -dirty if files have changed."""

    def git(*arguments):
        command = ["git", "-C", str(file.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # Fails where the package is only installed inside another project's checkout.
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

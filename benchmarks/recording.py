"""Records of benchmarks: command, commit, hardware, date and versions beside the numbers."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys

_ROOT = pathlib.Path(__file__).resolve().parents[1]
# Instruction sets that decide which kernels run.
_CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "asimd")


def context(*packages: str) -> dict:
    """Describes this run; `packages` are the distributions whose versions are recorded."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join([pathlib.Path(sys.executable).name, *sys.orig_argv[1:]]),
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),  # Before the benchmark adds to it.
        "python": platform.python_version(),
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }


def append(name: str, record: dict) -> pathlib.Path:
    """Appends a record to benchmarks/results/<name>.jsonl and returns that path."""
    path = _ROOT / "benchmarks" / "results" / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
    return path


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    result = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
    return result.stdout.strip() or "none"


def _cpu() -> str:
    """Returns the model and the flags of interest, such as `AMD EPYC (avx2 avx512f)`."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set((fields.get("flags") or fields.get("Features", "")).split())
    model = fields.get("model name", platform.machine())
    return f"{model} ({' '.join(flag for flag in _CPU_FLAGS if flag in flags)})"

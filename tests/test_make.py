"""Two stacks: which a machine can hold, by tools/stack.sh, and what `make` does there."""

import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# What `make` itself calls; everything else on the PATH of these tests is made up.
TOOLS = ("make", "sh", "bash", "env", "sed", "expand")


class Machine:
    """A made-up machine: its Pythons, C library and processor, by commands on its PATH."""

    def __init__(self, folder: pathlib.Path, pythons, glibc: str = "2.36", processor="x86_64"):
        self.path = folder
        for tool in filter(shutil.which, TOOLS):
            (folder / tool).symlink_to(shutil.which(tool))
        self.add("getconf", f'test "$1" = GNU_LIBC_VERSION && echo "glibc {glibc}"')
        self.add("uname", f'test "$1" = -m && echo {processor}')
        for version in pythons:
            self.add(f"python{version}", f"echo {version}")

    def add(self, name: str, line: str) -> None:
        """Adds a command, one line of shell."""
        (self.path / name).write_text(f"#!/bin/sh\n{line}\n")
        (self.path / name).chmod(0o755)

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess:
        """Runs a command in the repository with nothing but this machine's PATH."""
        where = {"PATH": str(self.path), "BYOL_VENVS": str(self.path / "venvs"), **variables}
        return subprocess.run(command, cwd=ROOT, env=where, capture_output=True, text=True)

    def stack(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
        """Asks tools/stack.sh."""
        return self.run(str(self.path / "bash"), "tools/stack.sh", *arguments, **variables)


@pytest.fixture
def machine(tmp_path):
    """Makes the machine of a test."""
    return lambda *args, **kwargs: Machine(tmp_path, *args, **kwargs)


@pytest.mark.parametrize(
    ("pythons", "glibc", "asked", "plan"),
    [
        # Debian 12 with Python 3.11, as here: classic unless it is told otherwise.
        (["3.11"], "2.36", "", "classic full python3.11"),
        (["3.11"], "2.36", "classic", "classic full python3.11"),
        (["3.11"], "2.36", "current", "current core python3.11"),
        # Debian 13, Ubuntu 24.04, Ubuntu 22.04.
        (["3.13"], "2.41", "", "current full python3.13"),
        (["3.12"], "2.39", "", "current full python3.12"),
        (["3.10"], "2.35", "", "current core python3.10"),
        # The last glibc without TFX's wheels, and one that is no decimal fraction below 2.39.
        (["3.12"], "2.38", "", "current core python3.12"),
        (["3.12"], "2.4", "", "current core python3.12"),
        # Beam is for Python 3.11 and later.
        (["3.10"], "2.41", "", "current core python3.10"),
        # Several Pythons: 3.11 makes it classic; current takes the newest.
        (["3.10", "3.11", "3.13"], "2.41", "", "classic full python3.11"),
        (["3.10", "3.11", "3.13"], "2.41", "current", "current full python3.13"),
    ],
)
def test_the_stack_follows_from_python_and_glibc(machine, pythons, glibc, asked, plan):
    result = machine(pythons, glibc).stack(asked)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[:3] == plan.split()
    reason = " ".join(result.stdout.split()[3:])
    assert reason.startswith(f"Python {plan.rpartition('python')[2]}")
    if "core" in plan:
        assert "without the pipeline: " in reason


def test_it_says_why_there_is_no_pipeline(machine):
    here = machine(["3.11"], "2.36")
    assert "TFX 1.21 needs glibc 2.39, and this system has 2.36" in here.stack("current").stdout
    refused = here.stack("current", "pipeline")
    assert refused.returncode == 1 and not refused.stdout
    assert refused.stderr.count("\n") == 1 and "use STACK=classic" in refused.stderr
    assert here.stack("classic", "pipeline").returncode == 0


def test_another_processor_has_the_current_core_only(machine):
    arm = machine(["3.11", "3.12"], "2.41", "aarch64")
    assert arm.stack().stdout.split()[:3] == ["current", "core", "python3.12"]
    refused = arm.stack("classic")
    assert refused.returncode == 1 and "aarch64: STACK=current fits here" in refused.stderr


def test_python_names_the_interpreter(machine, tmp_path):
    here = machine(["3.11", "3.12"], "2.39")
    assert here.stack(PYTHON="python3.12").stdout.split()[:3] == ["current", "full", "python3.12"]
    refused = here.stack("classic", PYTHON=str(tmp_path / "python3.12"))
    assert refused.returncode == 1 and "python3.12' is Python 3.12" in refused.stderr
    assert "STACK=current fits here" in refused.stderr


@pytest.mark.parametrize(
    ("pythons", "asked", "variables", "sentence"),
    [
        (["3.9"], "", {}, "no Python 3.10 to 3.13 is on the PATH"),
        (["3.14"], "current", {}, "no Python 3.10 to 3.13 is on the PATH"),
        (["3.9"], "current", {"PYTHON": "python3.9"}, "'python3.9' is Python 3.9"),
        (["3.11"], "", {"PYTHON": "missing"}, "'missing' is no Python"),
        (["3.12"], "classic", {}, "there is only Python 3.12: STACK=current fits here"),
        (["3.11"], "modern", {}, "no stack 'modern'; give STACK=classic, STACK=current"),
    ],
)
def test_what_does_not_fit_gets_one_sentence(machine, pythons, asked, variables, sentence):
    result = machine(pythons).stack(asked, **variables)
    assert result.returncode == 1 and not result.stdout
    assert result.stderr.count("\n") == 1 and sentence in result.stderr


def test_a_shim_without_its_python_is_passed_over(machine):
    """As pyenv leaves them on the PATH."""
    here = machine(["3.10"])
    here.add("python3.11", "exit 127")
    assert here.stack().stdout.split()[:3] == ["current", "core", "python3.10"]


needs_make = pytest.mark.skipif(not shutil.which("make"), reason="there is no make")


@needs_make
@pytest.mark.parametrize(
    ("python", "arguments", "folder", "locks"),
    [
        ("3.11", [], ".venv", ["classic-full"]),
        ("3.11", ["GPU=1"], ".venv", ["classic-full", "classic-gpu"]),
        ("3.11", ["STACK=current"], ".venv-current", ["current-core"]),
        ("3.12", ["GPU=1"], ".venv-current", ["current-core", "current-gpu"]),
    ],
)
def test_make_sets_up_each_stack_from_its_locks(machine, python, arguments, folder, locks):
    result = machine([python]).run("make", "--dry-run", "test", *arguments)
    assert result.returncode == 0, result.stderr
    installs = re.findall(r"(?m)^.*/bin/pip install .*-r requirements/.*", result.stdout)
    assert [pathlib.Path(line.split()[-1]).stem for line in installs] == locks
    assert all(f"/{folder}/bin/pip" in line and "--require-hashes" in line for line in installs)
    assert f"/{folder}/bin/python -m pytest" in result.stdout


@needs_make
def test_every_target_is_there_on_both_stacks(machine):
    here = machine(["3.11"])
    targets = re.findall(r"(?m)^  make ([a-z-]+) ", here.run("make").stdout)
    assert {"demo", "test", "test-stack", "lint", "bench", "bazel", "lock"} <= set(targets)
    for stack in ("classic", "current"):
        for target in targets:
            result = here.run("make", "--dry-run", target, f"STACK={stack}")
            assert result.returncode == 0, (stack, target, result.stderr)
            if stack == "current":
                assert "/.venv/" not in result.stdout and "classic-" not in result.stdout


@needs_make
def test_make_says_which_stack_and_why(machine):
    here = machine(["3.12"], "2.39")
    assert "Stack: current (Python 3.12)" in here.run("make").stdout
    assert "Stack: current (Python 3.12)" in here.run("make", "stack").stderr
    assert not here.run("make", "stack", "STACK=current").stderr


@needs_make
@pytest.mark.parametrize(
    ("pythons", "arguments", "sentence"),
    [
        (["3.11"], ["demo", "STACK=current"], "TFX 1.21 needs glibc 2.39"),
        (["3.12"], ["demo"], "use Debian 13 or Ubuntu 24.04"),
        (["3.12"], ["test", "STACK=classic"], "STACK=current fits here"),
        (["3.9"], ["test"], "byol_tf needs Python 3.11"),
    ],
)
def test_make_stops_before_it_sets_anything_up(machine, tmp_path, pythons, arguments, sentence):
    result = machine(pythons).run("make", *arguments)
    assert result.returncode == 2 and result.stderr.count(sentence) == 1
    assert "Setting up" not in result.stdout and not (tmp_path / "venvs").exists()

"""tools/trixie.sh says in a sentence what is missing, and leaves no half-made root."""

import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOLS = ("bash", "dirname", "env", "head", "id", "mkdir", "mktemp", "rm", "tail", "true", "unshare")

needs_mounts = pytest.mark.skipif(
    os.getuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False).returncode != 0,
    reason="only root may mount",
)


@pytest.fixture
def tools(tmp_path):
    """The folder of all commands on the PATH of `trixie`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool))
    return folder


@pytest.fixture
def trixie(tools, tmp_path):
    """Runs the script with a root that does not exist yet; returns its one line of complaint."""

    def run(*command: str) -> str:
        variables = {"PATH": str(tools), "HOME": "/root", "TRIXIE_ROOT": str(tmp_path / "root")}
        script = [str(ROOT / "tools" / "trixie.sh"), *command]
        result = subprocess.run(script, env=variables, capture_output=True, text=True, check=False)
        assert result.returncode == 1, result
        assert result.stdout == ""
        return result.stderr.strip()

    return run


def replace(tools: pathlib.Path, name: str, script: str) -> None:
    (tools / name).unlink(missing_ok=True)
    (tools / name).write_text(f"#!{tools}/bash\n{script}\n")
    (tools / name).chmod(0o755)


def test_without_a_command_it_names_one(trixie):
    assert trixie().startswith("Give the command to run")


def test_another_user_than_root_is_told_so(trixie, tools):
    replace(tools, "id", "echo 1000")
    assert trixie("true").endswith("run tools/trixie.sh as root.")


def test_a_machine_without_mounts_is_told_so(trixie, tools):
    replace(tools, "id", "echo 0")
    replace(tools, "unshare", "exit 1")
    assert trixie("true").startswith("This machine does not let root mount")


@needs_mounts
def test_without_debootstrap_it_says_how_to_install_it(trixie):
    assert trixie("true").endswith("apt-get install debootstrap")


@needs_mounts
def test_a_set_up_that_fails_leaves_no_root(trixie, tools, tmp_path):
    # Its last but one argument is the folder.
    replace(tools, "debootstrap", '> "${@: -2:1}/half"; echo "E: no such mirror"; exit 1')
    *_, reason, advice = trixie("true").splitlines()
    assert reason == "E: no such mirror"
    assert advice.startswith("debootstrap failed")
    (log,) = set(tmp_path.iterdir()) - {tools}
    assert log.suffix == ".log"
    assert str(log) in advice

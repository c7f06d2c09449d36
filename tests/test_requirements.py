"""The locks of requirements/: what setup.cfg asks for, exactly, by hash and for each Python."""

import configparser
import pathlib
import re

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOCKS = sorted(ROOT.glob("requirements/*.lock"))


def environment(python: str) -> dict[str, str]:
    """What markers see on Linux with this Python."""
    return {
        "python_version": python, "python_full_version": f"{python}.5", "extra": "",
        "sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64",
        "implementation_name": "cpython", "platform_python_implementation": "CPython",
    }  # fmt: skip


def pins(name: str, python: str) -> dict[str, str]:
    """Version by package of requirements/`name`.lock on Linux with this Python."""
    found = {}
    lines = re.findall(
        r"(?m)^(\S+)==(\S+)(?: ; (.+?))? \\$", (ROOT / f"requirements/{name}.lock").read_text()
    )
    for package, version, marker in lines:
        if not marker or Marker(marker).evaluate(environment(python)):
            assert package not in found, f"{package} has two pins for Python {python}"
            found[package] = version
    return found


CORE = ("tfds", "heif", "tiff", "serving", "report", "evaluation", "detection", "test")


@pytest.mark.parametrize(
    ("lock", "pythons", "extras"),
    [
        ("classic-core", ["3.11"], ["addons"]),
        ("classic-full", ["3.11"], ["addons", "pipeline", "dev"]),
        ("current-core", ["3.10", "3.11", "3.12", "3.13"], ["dev"]),
        ("current-full", ["3.11", "3.12", "3.13"], ["dev", "pipeline"]),
    ],
)
def test_locks_pin_what_setup_cfg_asks_for(lock, pythons, extras):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    needs = setup["options"]["install_requires"]
    needs += "".join(setup["options.extras_require"][extra] for extra in [*CORE, *extras])
    for python in pythons:
        pinned = pins(lock, python)
        for line in needs.strip().splitlines():
            if line.startswith("#"):
                continue
            need = Requirement(line)
            if not need.marker or need.marker.evaluate(environment(python)):
                assert need.specifier.contains(pinned[need.name.lower()]), (python, line)


@pytest.mark.parametrize(
    ("stack", "python", "tensorflow", "keras", "tfx"),
    [("classic", "3.11", "2.15.1", "2.15.0", "1.15.1")]
    + [("current", python, "2.21.0", "3.", "1.21.0") for python in ("3.11", "3.12", "3.13")],
)
def test_core_and_full_of_a_stack_agree(stack, python, tensorflow, keras, tfx):
    core, full = (pins(f"{stack}-{name}", python) for name in ("core", "full"))
    assert core["tensorflow"] == full["tensorflow"] == tensorflow
    assert core["keras"] == full["keras"] and core["keras"].startswith(keras)
    assert full["tfx"] == tfx and "tfx" not in core
    # TFX holds back some of the current stack; a plain pip install is not held back, nor is core.
    if stack == "classic":
        assert core.items() <= full.items()


def test_addons_are_classic_only():
    for python in ("3.10", "3.11", "3.12", "3.13"):
        assert "tensorflow-addons" not in pins("current-core", python)
    assert pins("classic-core", "3.11")["tensorflow-addons"] == "0.23.0"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_locks_name_no_machine(lock):
    options = r"^\s*--(?!hash=)"
    assert not re.search(rf"(?m)https?:|file:|@ |{options}|/tmp|/home", lock.read_text())


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_pin_has_hashes(lock):
    blocks = re.split(r"(?m)^(?=[a-z])", lock.read_text())[1:]
    assert len(blocks) > (10 if lock.stem.endswith("-gpu") else 50)
    for block in blocks:
        pin = r"\S+==\S+( ; [^\\]+)?( \\\n +--hash=sha256:[0-9a-f]{64})+\n"
        assert re.fullmatch(pin, block), block


def test_the_gpu_locks_add_nvidia_libraries_only():
    for stack in ("classic", "current"):
        names = pins(f"{stack}-gpu", "3.11")
        assert {"nvidia-cudnn-cu12", "nvidia-nccl-cu12", "nvidia-cublas-cu12"} <= set(names)
        assert all(name.startswith("nvidia-") for name in names)

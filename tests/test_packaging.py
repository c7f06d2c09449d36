"""The wheel holds what the tree holds, and says what an index and pip need to know."""

import configparser
import email
import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("byol_tf", "pipelines", "serving")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    """Built from a copy: setuptools would take up what an earlier build left in build/."""
    folder = tmp_path_factory.mktemp("packaging")
    source = folder / "source"
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    shutil.copytree(ROOT / "tests", source / "tests", ignore=shutil.ignore_patterns("*.pyc"))
    (source / "docs").mkdir()
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md", "docs/description.md"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    options = ["--no-index", "--quiet", "--wheel-dir", str(folder), str(source)]
    subprocess.run([*command, *options], check=True, timeout=300)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def about(wheel) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_string(archive.read(name).decode())


def test_every_module_and_data_file_is_in_the_wheel(names):
    tree = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for pattern in ("*.py", "*.html", "*.pbtxt", "py.typed")
        for path in (ROOT / package).rglob(pattern)
    }
    assert {f"{package}/py.typed" for package in PACKAGES} <= tree
    assert {name for name in names if ".dist-info/" not in name} == tree


def test_the_licence_is_in_the_wheel(names):
    assert any(re.fullmatch(r"[^/]+\.dist-info/(licenses/)?LICENSE", name) for name in names)


def test_entry_points_name_functions_of_the_wheel(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    (info,) = tmp_path.glob("*.dist-info")
    scripts = metadata.PathDistribution(info).entry_points.select(group="console_scripts")
    assert {"byol-pretrain", "byol-pipeline", "byol-serve", "byol-report"} <= set(scripts.names)
    # Those of the pipeline import TFX, which the current stack has on newer systems only.
    loadable = [
        script
        for script in scripts
        if importlib.util.find_spec("tfx") or not script.module.startswith("pipelines")
    ]
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}]\n"
        "from importlib.metadata import EntryPoint\n"
        f"for name, value in {[(script.name, script.value) for script in loadable]!r}:\n"
        "    run = EntryPoint(name, value, 'console_scripts').load()\n"
        "    assert callable(run)\n"
        f"    assert sys.modules[run.__module__].__file__.startswith({str(tmp_path)!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=300)


def test_metadata_are_complete(about):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for field in ("Author", "Summary", "Keywords", "Project-URL", "Classifier"):
        assert about[field], field
    assert about["License"] == "Apache-2.0" or about["License-Expression"] == "Apache-2.0"
    assert about["Requires-Python"] == "<3.14,>=3.10"
    assert set(about.get_all("Provides-Extra")) == set(setup["options.extras_require"])
    extras = {"serving", "report", "evaluation", "detection", "tfds", "pipeline", "test", "dev"}
    assert extras | {"addons"} <= set(about.get_all("Provides-Extra"))


def test_the_description_refers_to_nothing_beside_it(about):
    """An index shows it without the repository: relative links and pictures would be broken."""
    text = about.get_payload()
    assert about["Description-Content-Type"] == "text/markdown" and len(text) > 500
    assert not re.findall(r"\]\((?!https://)[^)]*\)", text) and "<img" not in text

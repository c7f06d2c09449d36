import re
import subprocess
import sys

import pytest
from parsed_page import Page

from byol_tf import runs
from byol_tf.configs import cifar10_demo


def report(*arguments):
    command = [sys.executable, "-m", "byol_tf.cli.report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def error(*arguments):
    """Returns the message of a command that must fail without a stack trace."""
    result = report(*arguments)
    assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
    return result.stderr


@pytest.fixture
def run_dir(tmp_path):
    path = tmp_path / "photos"
    config = cifar10_demo.get_config("smoke").to_dict()
    runs.claim_run_dir(str(path), config | {"examples": 60, "classes": []})
    (path / "history.csv").write_text("epoch,step,loss,ema\n1,7,2.5,0.99\n")
    return path


def test_a_run_becomes_a_page_in_its_folder(run_dir):
    result = report(run_dir)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"The page is {run_dir}/report.html\n"
    of_tensorflow = r"(?m)^(WARNING: All log messages|[IWE]0000 00:00:|\d{4}-\d\d-\d\d .*: [IWE] )"
    assert not re.findall(of_tensorflow, result.stderr)
    page = Page((run_dir / "report.html").read_text(encoding="utf-8"))
    assert "last 2.5" in page.text and "give both --train_dir and --test_dir." in page.text
    names = {file.name for file in run_dir.iterdir()}
    assert names == {"config.json", "history.csv", "report.html"}


def test_flags_may_follow_the_folder(run_dir, tmp_path):
    message = error(run_dir, f"--output={tmp_path / 'page.html'}", "--train_dir=a", "--test_dir=b")
    assert "error: the data 'a' does not exist" in message
    assert not (tmp_path / "page.html").exists()


def test_help_explains_the_argument_and_the_flags():
    result = report("--help")
    assert "byol-report runs/photos --train_dir" in result.stdout
    assert "--output: Path of the page; by default report.html in the run." in result.stdout


def test_what_is_wrong_is_said_before_the_work(tmp_path):
    assert "error: give RUN_DIR, see --help." in error()
    assert "unexpected argument 'b'" in error(tmp_path, "b")
    message = error(tmp_path, f"--output={tmp_path / 'missing' / 'page.html'}")
    assert f"error: there is no folder for '{tmp_path}/missing/page.html'" in message
    assert f"there is no folder for '{tmp_path}/gone/report.html'" in error(tmp_path / "gone")


def test_packages_that_are_not_installed_are_named_with_their_extra(run_dir):
    # Makes jinja2 look uninstalled before the command runs.
    code = (
        "import importlib.util as u, sys; found = u.find_spec;"
        "u.find_spec = lambda name, *rest: None if name == 'jinja2' else found(name, *rest);"
        f"sys.argv = ['byol-report', {str(run_dir)!r}];"
        "from byol_tf.cli import report; report.run()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert 'not installed (jinja2); run pip install "byol_tf[report]"' in result.stderr

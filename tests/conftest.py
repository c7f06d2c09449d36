"""Shared set-up of all tests: two logical CPU devices, real images, fixed seeds."""

import importlib.util
import os
import pathlib
import subprocess
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # As the commands do; see byol_tf/cli.

import keras
import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Without TFX (the current stack on an older system) there is no pipeline to test.
collect_ignore = [] if importlib.util.find_spec("tfx") else ["pipelines"]

# Processes that tests start find the encoders and methods of tests/support by name, too.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT / "tests" / "support")]
)

# Two devices for MirroredStrategy; must happen before TensorFlow starts its runtime.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


def pytest_addoption(parser):
    parser.addoption(
        "--fuzz-cases", type=int, default=200, help="Number of cases per fuzz test (default: 200)."
    )
    parser.addoption(
        "--exhaustive", action="store_true", help="Also run the tests marked exhaustive."
    )


# Minutes each. Files run in parallel (`make test`), and one of these last would leave a core idle.
_LONGEST_FILES = (
    "test_local.py",
    "test_kubeflow_v2.py",
    "test_pretrain.py",
    "test_data.py",
    "test_byol.py",
    "test_readme.py",
    "test_studies.py",
    "test_batching.py",
)


def pytest_collection_modifyitems(config, items):
    """Puts the longest test files first; skips exhaustive tests unless they are asked for."""
    rank = {name: number for number, name in enumerate(_LONGEST_FILES)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
    if not config.getoption("exhaustive"):
        for item in items:
            if item.get_closest_marker("exhaustive"):
                item.add_marker(pytest.mark.skip(reason="exhaustive: run with --exhaustive"))


@pytest.fixture(autouse=True)
def _fixed_seed():
    keras.utils.set_random_seed(0)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[pathlib.Path]:
    """The folder of a disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="session")
def two_replicas() -> tf.distribute.Strategy:
    """The one strategy of two logical CPUs whose collectives tests may run.

    Each strategy numbers its collectives from the same start, so those of a second strategy in the
    process would collide with the first's.
    """
    from byol_tf.training.strategy import build_strategy

    return build_strategy("mirrored")


@pytest.fixture(scope="session")
def images_dir() -> pathlib.Path:
    """The repository's small real image set: `train/<class>/*.jpg`, `test/<class>/*.jpg`."""
    return ROOT / "examples" / "images"

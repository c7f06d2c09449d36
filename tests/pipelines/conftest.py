"""Keeps TFX out of fast runs, because its import takes longer than all fast tests here."""

import pathlib
import re
import sys

import pytest

_IMPORTS_TFX = re.compile(r"^(?:from|import) tfx\b", re.MULTILINE)


def pytest_ignore_collect(collection_path: pathlib.Path, config: pytest.Config) -> bool | None:
    """Ignores files that import TFX at module level, with `-m "not slow"`."""
    fast = "not slow" in config.option.markexpr
    if (
        fast
        and collection_path.suffix == ".py"
        and _IMPORTS_TFX.search(collection_path.read_text())
    ):
        return True
    return None


def _tfx_is_loaded() -> bool:
    # tfx itself is a namespace that a .pth file makes when Python starts.
    return any(name.startswith("tfx.") for name in sys.modules)


@pytest.fixture(autouse=True)
def _fast_tests_import_no_tfx(request):
    """Fails a fast test that imports TFX; after a slow test has done so, it cannot tell."""
    loaded = _tfx_is_loaded()
    yield
    if not loaded and not request.node.get_closest_marker("slow"):
        assert not _tfx_is_loaded(), "a fast test imported TFX: mark it slow, or import later"

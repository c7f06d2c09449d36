"""Keeps TFX out of fast runs, because its import takes longer than all fast tests here."""

import pathlib
import re

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

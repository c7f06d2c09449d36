"""Fast runs leave TFX alone, whose import takes longer than all fast tests here."""

import re

_IMPORTS_TFX = re.compile(r"^(?:from|import) tfx\b", re.MULTILINE)


def pytest_ignore_collect(collection_path, config):
    """With `-m "not slow"`, files that import TFX at their top are not even looked at."""
    fast = "not slow" in config.option.markexpr
    if (
        fast
        and collection_path.suffix == ".py"
        and _IMPORTS_TFX.search(collection_path.read_text())
    ):
        return True
    return None

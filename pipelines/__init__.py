"""The TFX pipeline around byol_tf: from a folder of images to a pushed, evaluated encoder."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """Returns an artifact type, which Kubeflow looks up here; TFX is not imported before that."""
    if name in ("ApprovedStatistics", "Embeddings"):
        return getattr(importlib.import_module("pipelines.artifacts"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

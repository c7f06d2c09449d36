"""The TFX pipeline around byol_tf: from a folder of images to a pushed, evaluated encoder."""

import importlib


def __getattr__(name: str):
    """The artifact types, which Kubeflow looks for here; until then TFX is not imported."""
    if name in ("ApprovedStatistics", "Embeddings"):
        return getattr(importlib.import_module("pipelines.artifacts"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

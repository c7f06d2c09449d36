"""Evaluation protocols, one module each: `evaluate(encoder, splits, config)`."""

import importlib
import importlib.util
from types import ModuleType


def find_protocol(name: str) -> ModuleType:
    """Returns the module of the protocol `name`, such as `linear` or `segmentation`."""
    dense = importlib.util.find_spec(f"{__name__}.dense.{name}")
    return importlib.import_module(f"{__name__}.dense.{name}" if dense else f"{__name__}.{name}")

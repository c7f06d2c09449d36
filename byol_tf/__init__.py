"""Bootstrap Your Own Latent (BYOL, arXiv 2006.07733) as a Keras model.

    encoder = byol_tf.networks.resnet(depth=50, image_size=224)
    model = byol_tf.BYOL(encoder, total_steps=10_000)

Submodules are imported when first used (PEP 562), so that `import byol_tf` takes milliseconds
and a command line can answer `--help` or a bad flag before TensorFlow is loaded.
"""

import importlib
import importlib.util
import pkgutil
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports the submodule `name` (or the class `BYOL`) on first use."""
    if name == "BYOL":
        value = importlib.import_module("byol_tf.byol").BYOL
    elif not name.startswith("_") and importlib.util.find_spec(f"byol_tf.{name}"):
        value = importlib.import_module(f"byol_tf.{name}")
    else:
        raise AttributeError(f"module 'byol_tf' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Lists what `__getattr__` can give, for completion in notebooks."""
    submodules = {module.name for module in pkgutil.iter_modules(__path__)}
    return sorted({*globals(), *submodules, "BYOL"})

"""Bootstrap Your Own Latent (BYOL, arXiv 2006.07733) as a Keras model.

    encoder = byol_tf.networks.resnet(depth=50, image_size=224)
    model = byol_tf.BYOL(encoder, total_steps=10_000)

Submodules are imported on first use (PEP 562), so that `import byol_tf` takes milliseconds and a
command line can answer `--help` or a bad flag before TensorFlow is loaded.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from byol_tf import build as build
    from byol_tf import configs as configs
    from byol_tf import data as data
    from byol_tf import encoders as encoders
    from byol_tf import evaluation as evaluation
    from byol_tf import export as export
    from byol_tf import runs as runs
    from byol_tf import sources as sources
    from byol_tf import weights as weights
    from byol_tf.images import augmentations as augmentations
    from byol_tf.images import preprocessing as preprocessing
    from byol_tf.images import view_config as view_config
    from byol_tf.models import losses as losses
    from byol_tf.models import networks as networks
    from byol_tf.models import optimizers as optimizers
    from byol_tf.models import precision as precision
    from byol_tf.models import schedules as schedules
    from byol_tf.models import simclr as simclr
    from byol_tf.models import simsiam as simsiam
    from byol_tf.models import stages as stages
    from byol_tf.models import two_view_model as two_view_model
    from byol_tf.models import vicreg as vicreg
    from byol_tf.models.byol import BYOL as BYOL
    from byol_tf.training import callbacks as callbacks
    from byol_tf.training import pretrain as pretrain
    from byol_tf.training import strategy as strategy

__version__ = "0.1.0"

# Public short names of modules. They also work in `import byol_tf.networks`, and in saved models
# that name `byol_tf.byol` as the module of a class.
_SHORT_NAMES = {
    "augmentations": "images.augmentations",
    "byol": "models.byol",
    "callbacks": "training.callbacks",
    "losses": "models.losses",
    "networks": "models.networks",
    "optimizers": "models.optimizers",
    "precision": "models.precision",
    "preprocessing": "images.preprocessing",
    "pretrain": "training.pretrain",
    "schedules": "models.schedules",
    "simclr": "models.simclr",
    "simsiam": "models.simsiam",
    "stages": "models.stages",
    "strategy": "training.strategy",
    "two_view_model": "models.two_view_model",
    "vicreg": "models.vicreg",
    "view_config": "images.view_config",
}


class _ShortNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports `byol_tf.networks` as `byol_tf.models.networks`, one module under both names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package == __name__ and name.partition(".")[0] in _SHORT_NAMES:
            return importlib.machinery.ModuleSpec(fullname, self)
        return None

    def exec_module(self, module: ModuleType) -> None:
        name, dot, rest = module.__name__.removeprefix(f"{__name__}.").partition(".")
        # The import system takes from sys.modules what a loader has put there.
        sys.modules[module.__name__] = importlib.import_module(
            f"{__name__}.{_SHORT_NAMES[name]}{dot}{rest}"
        )


sys.meta_path.insert(0, _ShortNames())


def __getattr__(name: str) -> Any:
    """Imports the submodule `name` (or the class `BYOL`) on first use."""
    if name == "BYOL":
        value = importlib.import_module("byol_tf.models.byol").BYOL
    elif not name.startswith("_") and importlib.util.find_spec(f"byol_tf.{name}"):
        value = importlib.import_module(f"byol_tf.{name}")
    else:
        raise AttributeError(f"module 'byol_tf' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Returns the names that `__getattr__` knows, for completion in notebooks."""
    submodules = {module.name for module in pkgutil.iter_modules(__path__)}
    return sorted({*globals(), *submodules, *_SHORT_NAMES, "BYOL"})

"""Smoke recipes with an encoder that is traced in a second, for tests of all that is around one.

Tracing the smoke recipes' ResNet-10 is most of what their runs cost.
"""

from collections.abc import Callable
from typing import Any

import ml_collections

from byol_tf.configs import cifar10_demo, defaults

ENCODER = "own_encoders.tiny"
FEATURES = 16
# Of a command whose --config names a smoke recipe. conftest.py lets processes find the module.
FLAG = f"--config.encoder.name={ENCODER}"


def quick(
    get_config: Callable[[str], ml_collections.ConfigDict] = cifar10_demo.get_config,
    **arguments: Any,
) -> ml_collections.ConfigDict:
    """Returns the recipe's smoke config with that encoder, `[B, 32, 32, 3]` -> `[B, FEATURES]`."""
    config = get_config("smoke").copy_and_resolve_references()
    defaults.set_encoder(config, ENCODER, **arguments)
    return config

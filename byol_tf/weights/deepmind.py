"""DeepMind's checkpoints of BYOL (pretrain_res50x1.pkl): haiku's names -> ours.

Their format: a pickle by dill of {experiment_state, step, rng}, where the state is a named tuple
with `online_params` and `online_state`, of each module's arrays by name. Kernels are laid out as
ours. The paper's evaluation takes the moving averages without their initial bias, `average`.
"""

import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from byol_tf.errors import UserError
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.weights import architecture, pickled
from byol_tf.weights.encoder_weights import EncoderWeights
from byol_tf.weights.pickled_numpy import BUILDERS

# The fields of their named tuple, where a file has the class by its name only.
_FIELDS = ("online_params", "target_params", "online_state", "target_state", "opt_state")
_MAPPINGS: dict[str, Callable[..., Any]] = {
    f"{module} {name}": lambda *items: dict(items[0]) if items else {}
    for module in ("haiku._src.data_structures", "haiku.data_structures")
    for name in ("FlatMapping", "FlatMap", "frozendict")
}
_MAPPINGS["collections OrderedDict"] = lambda *items: dict(items[0]) if items else {}
_BLOCK = re.compile(
    r"block_group_(\d)/~/block_(\d+)/~/(?:(conv|batchnorm)_(\d)|shortcut_(conv|batchnorm))"
)
_KINDS = {"conv": "conv", "batchnorm": "bn"}


def read(path: str) -> EncoderWeights:
    """Returns the online encoder of a checkpoint.

    Raises:
        UserError: It is not such a checkpoint, or damaged.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        try:
            tree = pickled.load(file, size, BUILDERS | _MAPPINGS)
        except UserError as error:
            raise UserError(f"'{path}': {error}") from error
    params, state = _online(tree, path)
    try:
        layers = _layers(params, state)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise UserError(
            f"'{path}' is damaged: a module in it has other parts than haiku's ({error!r}); "
            "download it again."
        ) from error
    if "stem_conv" not in layers:
        raise UserError(
            f"'{path}' holds no ResNet with the names of DeepMind's byol (it has "
            f"{', '.join(list(params)[:3]) or 'nothing'}); give one of its checkpoints."
        )
    return EncoderWeights(
        path,
        "a checkpoint of DeepMind's byol",
        layers,
        architecture.infer(layers, path, "same"),
        Preprocessing(224),
        method="byol",
    )


def _online(tree: Any, path: str) -> tuple[dict, dict]:
    """Returns the parameters and the state of the online network."""
    state: Any = tree.get("experiment_state") if isinstance(tree, dict) else None
    if isinstance(state, pickled.Record):
        made_by = state.made_by
        # dill makes the class from its name and its fields: `_create_namedtuple`.
        fields = made_by.args[1] if isinstance(made_by, pickled.Record) else _FIELDS
        state = dict(zip(fields, state.args, strict=False))
    try:
        return dict(state["online_params"]), dict(state["online_state"])
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"'{path}' is not a checkpoint of DeepMind's byol: it has no experiment_state with "
            "online_params and online_state; give a file such as pretrain_res50x1.pkl."
        ) from error


def _layers(params: dict, state: dict) -> dict[str, list[np.ndarray]]:
    layers = {}
    for module, arrays in params.items():
        root, _, inner = module.partition("/~/")
        layer = _layer(inner)
        if layer is None or "/" in root:
            continue  # projector, predictor, classifier
        parts = [arrays["w"]] if "w" in arrays else [arrays["scale"], arrays["offset"]]
        if "w" not in arrays:
            parts += [state[f"{module}/~/{name}_ema"]["average"] for name in ("mean", "var")]
        numbers = [np.array(part.numbers(), np.float32) for part in parts]
        layers[layer] = numbers if "w" in arrays else [part.reshape(-1) for part in numbers]
    return layers


def _layer(inner: str) -> str | None:
    """Returns our name of a haiku module below the network's, None if it is no layer of it."""
    if match := re.fullmatch(r"initial_(conv|batchnorm)(?:_1)?", inner):
        return f"stem_{_KINDS[match[1]]}"
    if match := _BLOCK.fullmatch(inner):
        block = f"c{int(match[1]) + 2}_block{int(match[2]) + 1}"
        if match[3]:
            return f"{block}_{_KINDS[match[3]]}{int(match[4]) + 1}"
        return f"{block}_shortcut_{_KINDS[match[5]]}"
    return None

"""PyTorch's names of a ResNet -> ours: those of torchvision, lightly and solo-learn.

| source | encoder | target, left out |
|---|---|---|
| torchvision | `conv1.weight`, `layer1.0.conv1.weight` | |
| lightly | `backbone.0.weight`, `backbone.4.0.conv1.weight` | `backbone_momentum.` `teacher_` |
| lightly's `ResNetGenerator` | `backbone.0.weight`, `backbone.2.0.conv1.weight` | the same |
| solo-learn | `backbone.conv1.weight`, `backbone.layer1.0.conv1.weight` | `momentum_backbone.` |

Any prefix is found, so that `state_dict.`, `module.` or `online_encoder.net.` need no table. Heads
and classifiers are left out.
"""

import re
from collections.abc import Mapping

import numpy as np

from byol_tf.errors import UserError
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.weights import architecture
from byol_tf.weights.encoder_weights import EncoderWeights
from byol_tf.weights.tensor import Tensor

# The modules' names: first convolution, its BatchNorm, the four groups of blocks. A Sequential of a
# network's children numbers them, also those without weights.
_OF_GENERATOR = "the numbers of lightly's ResNetGenerator"
_LAYOUTS = {
    "torchvision's names": ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"),
    "the numbers of a Sequential": ("0", "1", "4", "5", "6", "7"),
    _OF_GENERATOR: ("0", "1", "2", "3", "4", "5"),
}
_OF_TARGETS = re.compile(r"momentum|target|teacher|encoder_k|(^|[._])ema[._]")
_PARAMETERS = ("weight", "bias", "running_mean", "running_var")
_SHORTCUTS = {"0": "conv", "1": "bn"}
# Of RGB in [0, 1] on CIFAR-10, as in solo-learn's classification_dataloader.py.
_CIFAR_MEAN, _CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)


def convert(tensors: Mapping[str, Tensor], path: str) -> EncoderWeights:
    """Returns the online encoder among the tensors of a state dict or checkpoint.

    Raises:
        UserError: There is no ResNet, or several, or one with other layers than a ResNet v1 has.
    """
    prefix, layout = _find(tensors, path)
    names = _LAYOUTS[layout]
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        module, _, parameter = name.removeprefix(prefix).rpartition(".")
        if not name.startswith(prefix) or parameter == "num_batches_tracked":
            continue
        if module.partition(".")[0] not in names:
            continue  # A classifier or a head.
        layer = _layer(module, names)
        if layer is None or parameter not in _PARAMETERS:
            raise UserError(
                f"'{path}' has '{name}', which a ResNet v1 has not; give weights of ResNet-18, 34, "
                "50, 101, 152 or 200."
            )
        arrays.setdefault(layer, {})[parameter] = tensor.read()
    layers = {name: _keras_order(name, parts, path) for name, parts in arrays.items()}
    stem = "lightly" if layout == _OF_GENERATOR else None
    if _is_solo_learn(tensors, prefix, layers):
        stem = "solo-learn"
    network = architecture.infer(layers, path, "symmetric", stem)
    where = f" under '{prefix}'" if prefix else ""
    return EncoderWeights(
        path,
        f"PyTorch tensors with {layout}{where}",
        layers,
        network,
        _preprocessing(network["stem"]),
    )


def _find(tensors: Mapping[str, Tensor], path: str) -> tuple[str, str]:
    """Returns the prefix of the encoder's names and which names follow it."""
    found: dict[str, str] = {}
    for layout, (conv, norm, group, *_) in _LAYOUTS.items():
        first, second = f"{conv}.weight", f"{group}.0.conv1.weight"
        for name in tensors:
            prefix = name[: -len(first)]
            whole = name.endswith(first) and (not prefix or prefix.endswith("."))
            if whole and {f"{prefix}{norm}.running_mean", f"{prefix}{second}"} <= tensors.keys():
                found[prefix] = layout  # Of the two with numbers, the later has the earlier's too.
    online = [prefix for prefix in found if not _OF_TARGETS.search(prefix)] or list(found)
    if len(online) > 1:
        raise UserError(
            f"'{path}' holds several encoders ({', '.join(map(repr, online))}); save the state "
            "dict of the one you want in a file of its own."
        )
    if not online:
        some = ", ".join(list(tensors)[:3]) or "no tensors"
        raise UserError(
            f"'{path}' holds no ResNet with the names of torchvision, lightly or solo-learn (it "
            f"has {some}); give the state dict of one."
        )
    return online[0], found[online[0]]


def _layer(module: str, names: tuple[str, ...]) -> str | None:
    """Returns our name of a module, None if a ResNet v1 has no such module."""
    if module == names[0]:
        return "stem_conv"
    if module == names[1]:
        return "stem_bn"
    group, _, rest = module.partition(".")
    match = re.fullmatch(r"(\d+)\.(?:(conv|bn)([123])|(?:downsample|shortcut)\.([01]))", rest)
    if match is None or group in names[:2]:
        return None
    block = f"c{names.index(group)}_block{int(match[1]) + 1}"
    if match[4]:
        return f"{block}_shortcut_{_SHORTCUTS[match[4]]}"
    return f"{block}_{match[2]}{match[3]}"


def _keras_order(layer: str, parts: dict[str, np.ndarray], path: str) -> list[np.ndarray]:
    is_norm = "_bn" in layer
    wanted = _PARAMETERS if is_norm else _PARAMETERS[:1]
    sides = 1 if is_norm else 4
    if sorted(parts) != sorted(wanted) or any(part.ndim != sides for part in parts.values()):
        raise UserError(
            f"'{path}' has {', '.join(sorted(parts))} for the layer '{layer}', where a ResNet v1 "
            f"has {', '.join(wanted)}; give weights of one."
        )
    if is_norm:
        return [parts[name] for name in wanted]
    return [parts["weight"].transpose(2, 3, 1, 0)]  # OIHW -> HWIO


def _is_solo_learn(
    tensors: Mapping[str, Tensor], prefix: str, layers: dict[str, list[np.ndarray]]
) -> bool:
    """Whether the stem is solo-learn's for CIFAR, which has a wider border and no other mark."""
    outside = prefix.removesuffix("backbone.")
    return (
        layers["stem_conv"][0].shape[0] == 3
        and outside != prefix
        and f"{outside}classifier.weight" in tensors
        and f"{prefix}conv1.weight" in tensors
        and not any(name.startswith(f"{outside}projection_head") for name in tensors)
    )


def _preprocessing(stem: str) -> Preprocessing:
    """Returns what the source's own evaluation does to images: of ImageNet, or of CIFAR-10."""
    if stem == "imagenet":
        return Preprocessing(224, 0.875, resize="bilinear")
    if stem == "solo-learn":
        return Preprocessing(32, 1.0, _CIFAR_MEAN, _CIFAR_STD, "bilinear")
    return Preprocessing(32, 1.0, resize="bilinear")

"""The ResNet that weights belong to, found from their layers' names and shapes."""

import re
from typing import Any

import numpy as np

from byol_tf.errors import UserError
from byol_tf.models.networks import DEPTHS

_STAGES = (2, 3, 4, 5)


def infer(
    layers: dict[str, list[np.ndarray]], path: str, padding: str, stem: str | None = None
) -> dict[str, Any]:
    """Returns the arguments of `networks.resnet`, without the image size.

    Args:
        layers: Arrays by layer, with the names of `networks.resnet`.
        path: File they are from, for the error.
        padding: How the source's framework pads, which shapes do not show.
        stem: Stem, if the source says it; None takes the one with that kernel.

    Raises:
        UserError: No `networks.resnet` has these numbers of blocks, stem or channels.
    """
    blocks = tuple(
        len({match[1] for name in layers if (match := re.match(rf"c{stage}_block(\d+)_", name))})
        for stage in _STAGES
    )
    bottleneck = "c2_block1_conv3" in layers
    depth = next((d for d, network in DEPTHS.items() if network == (blocks, bottleneck)), None)
    if depth is None:
        kind = "bottleneck" if bottleneck else "basic"
        raise UserError(
            f"'{path}' holds a ResNet of {'-'.join(map(str, blocks))} {kind} blocks, which is none "
            f"of the depths {', '.join(map(str, DEPTHS))}; give weights of one of those."
        )
    kernel = layers["stem_conv"][0].shape
    if kernel[:2] not in ((7, 7), (3, 3)):
        raise UserError(
            f"the first convolution in '{path}' is {kernel[0]}x{kernel[1]}; give weights of a "
            "ResNet v1, whose is 7x7 or 3x3."
        )
    return {
        "depth": depth,
        "width": kernel[3] / 64,
        "stem": stem or ("imagenet" if kernel[0] == 7 else "small"),
        "padding": padding,
        "c2_projection": not bottleneck and "c2_block1_shortcut_conv" in layers,
    }

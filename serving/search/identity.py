"""Whether embeddings may be added to existing ones: the same model, keys from the same folder.

Two models are the same if they embed one fixed image in the same way. Names and version numbers do
not tell: a folder has another name than the endpoint that serves it, and version 1 of two endpoints
may be two models.
"""

import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from serving import png
from serving.client import EmbeddingClient
from serving.errors import UserError

# Largest difference between two embeddings of the same image by the same model, relative to their
# length: a cosine similarity of 0.99999. Processors and batch sizes round differently; two models
# that are this close could be mixed without harm.
_TOLERANCE = 0.005


def probe_image(channels: int = 3) -> bytes:
    """Returns the fixed image, a PNG of 64 × 64 pixels: coloured ramps with edges between them.

    Args:
        channels: Number of the model's channels; one gets the same RGB as three, decoded to grey.
    """
    y, x = np.mgrid[:64, :64]
    ramps = [x, y, *(x ^ y ^ band for band in range(62))]
    return png.encode(4 * np.stack(ramps[: 3 if channels == 1 else channels], -1).astype(np.uint8))


def probe(client: EmbeddingClient) -> list[float]:
    """Returns the model's embedding of the fixed image, D numbers of six digits."""
    (values,) = client.embed([probe_image(client.pixel_format().channels)])
    return [float(f"{value:.6g}") for value in values]


def check_same_model(before: dict[str, Any], now: dict[str, Any], where: str) -> None:
    """Raises `UserError` if existing embeddings come from another model: they cannot be compared.

    Args:
        before: Origin of the existing embeddings, see `Embeddings`; files of other programs, and
            of earlier versions of this one, do not record everything.
        now: Origin of the new embeddings.
        where: Path of the existing embeddings.
    """
    if "probe" in before:
        if _is_same(before["probe"], now["probe"]):
            return
        why = ", which embeds the same image in another way"
    elif before.get("model", now["model"]) == now["model"]:
        return
    else:
        why = ""
    raise UserError(
        f"'{where}' holds embeddings of {_named(before.get('model', {}))}, and this is "
        f"{_named(now['model'])}{why}: they cannot be mixed. Give another --output, remove the "
        "old one, or give the same version."
    )


def check_same_root(
    before: dict[str, Any], now: dict[str, Any], keys: Iterable[str], where: str
) -> None:
    """Raises `UserError` if relative keys would start from two folders.

    A folder that does not exist any more was moved with its images: keys start from the new one.

    Args:
        before: Origin of the existing embeddings, see `Embeddings`.
        now: Origin of the new embeddings.
        keys: Keys of both.
        where: Path of the existing embeddings.
    """
    root = before.get("root", now["root"])
    if (
        os.path.isdir(root)
        and not os.path.samefile(root, now["root"])
        and not all(map(os.path.isabs, keys))
    ):
        raise UserError(
            f"the keys of '{where}' start from the folder '{root}'; run byol-embed there, or give "
            "another --output."
        )


def _is_same(before: list[float], now: list[float]) -> bool:
    if len(before) != len(now):
        return False
    difference = np.linalg.norm(np.subtract(before, now))
    return bool(difference <= _TOLERANCE * np.linalg.norm(now))


def _named(model: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in model.items()) or "an unnamed model"

"""NumPy files of embeddings: the values in .npy, and their keys in .keys.json beside it."""

import hashlib
import itertools
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from serving.search.embeddings import Embeddings

_STATS = "size_and_mtime_ns"
_DIGEST = "npy_sha256"


def keys_path(path: str) -> str:
    """Returns the path of the keys of a .npy file."""
    return f"{path.removesuffix('.npy')}.keys.json"


def read(path: str, digest: str) -> tuple[list[str], np.ndarray, np.ndarray, dict[str, Any]]:
    """Returns keys, embeddings `[N, D]`, memory-mapped, stats int64 `[N, 2]` and `about`.

    Args:
        path: Path of the .npy file.
        digest: Its digest, which the keys have to name: two files are not replaced at once.

    Raises:
        ValueError: The file does not hold embeddings; the message says why.
    """
    try:
        values = np.lib.format.open_memmap(path, mode="r")  # Refuses pickled objects.
    except OSError:
        raise
    except Exception as error:  # NumPy raises many types for a header that it cannot parse.
        raise ValueError(str(error)) from error
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"it has {values.dtype}, not floats")
    if values.ndim != 2:
        raise ValueError(f"it has the shape {list(values.shape)}, not [N, D]")
    with open(keys_path(path), encoding="utf-8") as file:
        about = json.load(file)
    if not isinstance(about, dict) or not isinstance(about.get("keys"), list):
        raise ValueError(f"'{keys_path(path)}' has no list 'keys'")
    keys = about.pop("keys")
    if not all(isinstance(key, str) for key in keys):
        raise ValueError(f"'{keys_path(path)}' has a key that is not text")
    stats = np.array(about.pop(_STATS, [[-1, -1]] * len(keys)), np.int64)
    if len(values) != len(keys) or stats.shape != (len(keys), 2):
        raise ValueError(f"it has {len(values)} rows for {len(keys)} keys")
    if about.pop(_DIGEST, digest) != digest:
        raise ValueError(f"it is not the file that '{keys_path(path)}' belongs to")
    return keys, values.astype(np.float32, copy=False), stats, about


def write(
    path: str, keys_path: str, parts: Iterable["Embeddings"], count: int, about: dict[str, Any]
) -> None:
    """Writes parts one after the other; only one part is in memory at a time."""
    remaining = iter(parts)
    first = next(remaining)
    values = np.lib.format.open_memmap(path, "w+", np.float32, (count, first.values.shape[1]))
    keys: list[str] = []
    stats: list[list[int]] = []
    for part in itertools.chain([first], remaining):
        values[len(keys) : len(keys) + len(part.keys)] = part.values
        keys += part.keys
        stats += part.stats.tolist()
    values.flush()
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with open(keys_path, "w", encoding="utf-8") as file:
        json.dump(about | {_DIGEST: digest, "keys": keys, _STATS: stats}, file)

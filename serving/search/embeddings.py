"""Files of embeddings: Parquet with `key` and `embedding`, or .npy with its keys beside it.

The file also records the model that made the embeddings and the folder that the keys start from.
Files are written atomically.
"""

import contextlib
import dataclasses
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

# Reading a Parquet file would unpickle its extension types, which runs code (CVE-2023-47248).
import pyarrow_hotfix  # noqa: F401

from serving.errors import UserError
from serving.search.replacing import replacing

_METADATA = b"byol_tf"
_ROWS_AT_ONCE = 65536


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Embeddings and their keys.

    Attributes:
        keys: Paths of the N images.
        values: Embeddings, float32 `[N, D]`.
        about: Origin of the embeddings: `model`, a dictionary that is equal for embeddings that may
            be compared, and `root`, the folder that relative keys start from. Empty if the file
            does not record it.
    """

    keys: list[str]
    values: np.ndarray
    about: dict[str, Any] = dataclasses.field(default_factory=dict)


def check_name(path: str) -> None:
    """Raises `UserError` unless `path` has the suffix of a format."""
    if not path.endswith((".parquet", ".npy")):
        raise UserError(f"'{path}' has no suffix of a known format; end it in .parquet or .npy.")


def keys_path(path: str) -> str:
    """Returns the path of the keys of a .npy file."""
    return f"{path.removesuffix('.npy')}.keys.json"


def read(path: str) -> Embeddings:
    """Reads a file written by `write`, or a Parquet file of the pipeline's CorpusEmbedder.

    Raises:
        UserError: The file does not exist or does not hold embeddings.
    """
    with _reading(path):
        return _read_npy(path) if path.endswith(".npy") else _read_parquet(path)


def read_keys(path: str) -> tuple[list[str], dict[str, Any]]:
    """Reads the keys and `about` of a file like `read`, without the embeddings."""
    with _reading(path):
        if path.endswith(".npy"):
            found = _read_npy(path)  # The embeddings are memory-mapped, not read.
            return found.keys, found.about
        table = pq.read_table(path, columns=["key"])
        return table["key"].to_pylist(), _about(table.schema)


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    check_name(path)
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(
            f"the file '{error.filename or path}' does not exist; make it with byol-embed "
            f"--output={path}."
        ) from error
    except RuntimeError as error:
        if "arrow.py_extension_type" not in str(error):
            raise
        raise UserError(
            f"'{path}' has a column of a pickled type, which can run code when it is read; make "
            "the file with byol-embed."
        ) from error
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"'{path}' does not hold embeddings with their keys ({error}); make it with byol-embed."
        ) from error


def _read_parquet(path: str) -> Embeddings:
    table = pq.read_table(path, columns=["key", "embedding"])
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table["embedding"].chunks]
    values = np.concatenate(chunks).astype(np.float32, copy=False)
    if values.size % len(table):
        raise ValueError(f"{len(table)} rows with {values.size} numbers")
    return Embeddings(
        table["key"].to_pylist(), values.reshape(len(table), -1), _about(table.schema)
    )


def _about(schema: pa.Schema) -> dict[str, Any]:
    return json.loads((schema.metadata or {}).get(_METADATA, b"{}"))


def _read_npy(path: str) -> Embeddings:
    values = np.load(path, mmap_mode="r")
    with open(keys_path(path), encoding="utf-8") as file:
        about = json.load(file)
    keys = about.pop("keys")
    if values.ndim != 2 or len(values) > len(keys):
        raise ValueError(f"{list(values.shape)} numbers and {len(keys)} keys")
    # After a kill between writing the two files, the keys already include those of the new rows.
    keys = keys[: len(values)]
    return Embeddings(keys, values, about)


def write(path: str, parts: Iterable[Embeddings], count: int, about: dict[str, Any]) -> None:
    """Writes parts one after the other to one file; only one part is in memory at a time.

    Args:
        path: Path of the file, `.parquet` or `.npy`.
        parts: At least one part; all have the same D.
        count: Number of rows of all parts.
        about: Origin of the embeddings, see `Embeddings`.

    Raises:
        UserError: The file cannot be written.
    """
    if path.endswith(".npy"):
        with replacing(path) as temporary, replacing(keys_path(path)) as keys_temporary:
            keys = _write_npy(temporary, parts, count)
            with open(keys_temporary, "w", encoding="utf-8") as file:
                json.dump(about | {"keys": keys}, file)
    else:
        with replacing(path) as temporary:
            _write_parquet(temporary, parts, about)


def _write_parquet(path: str, parts: Iterable[Embeddings], about: dict[str, Any]) -> None:
    schema = pa.schema([("key", pa.string()), ("embedding", pa.list_(pa.float32()))])
    schema = schema.with_metadata({_METADATA: json.dumps(about).encode()})
    with pq.ParquetWriter(path, schema) as writer:
        for part in parts:
            for start in range(0, len(part.keys), _ROWS_AT_ONCE):  # A list's offsets have 31 bits.
                keys = part.keys[start : start + _ROWS_AT_ONCE]
                values = part.values[start : start + _ROWS_AT_ONCE]
                offsets = pa.array(np.arange(len(keys) + 1) * values.shape[1], pa.int32())
                column = pa.ListArray.from_arrays(offsets, pa.array(np.ravel(values), pa.float32()))
                writer.write_table(
                    pa.Table.from_arrays([pa.array(keys, pa.string()), column], schema=schema)
                )


def _write_npy(path: str, parts: Iterable[Embeddings], count: int) -> list[str]:
    remaining = iter(parts)
    first = next(remaining)
    shape = (count, first.values.shape[1])
    values = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    keys: list[str] = []
    for part in itertools.chain([first], remaining):
        values[len(keys) : len(keys) + len(part.keys)] = part.values
        keys += part.keys
    values.flush()
    return keys


class Parts:
    """Finished embeddings of a run, in a folder beside its output; they survive a kill.

    Args:
        output: Output of the run; the folder is `OUTPUT.parts`.
        about: Origin of the embeddings, see `Embeddings`.

    Attributes:
        keys: Keys of the finished embeddings.

    Raises:
        UserError: The folder holds embeddings of another model, or cannot be made.
    """

    def __init__(self, output: str, about: dict[str, Any]):
        self._folder = f"{output}.parts"
        self._about = about
        try:
            os.makedirs(self._folder, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write beside '{output}' ({error}); give another --output."
            ) from error
        self._files = sorted(
            os.path.join(self._folder, name)
            for name in os.listdir(self._folder)
            if name.endswith(".parquet")
        )
        self.keys: set[str] = set()
        for file in self._files:
            keys, before = read_keys(file)
            check_same_model(before, about, self._folder)
            self.keys.update(keys)

    def add(self, keys: list[str], values: np.ndarray) -> None:
        """Saves more embeddings."""
        file = os.path.join(self._folder, f"{len(self._files):06d}.parquet")
        write(file, [Embeddings(keys, values)], len(keys), self._about)
        self._files.append(file)
        self.keys.update(keys)

    def all(self) -> Iterator[Embeddings]:
        """Reads the embeddings, one part at a time."""
        return map(read, self._files)

    def clear(self) -> None:
        """Deletes the embeddings."""
        for name in os.listdir(self._folder):
            os.remove(os.path.join(self._folder, name))
        self._files.clear()
        self.keys.clear()

    def remove(self) -> None:
        """Deletes the embeddings and the folder."""
        self.clear()
        os.rmdir(self._folder)


def check_same_model(before: dict[str, Any], now: dict[str, Any], where: str) -> None:
    """Raises `UserError` if existing embeddings come from another model: they cannot be compared.

    Args:
        before: Origin of the existing embeddings; empty if their file does not record it.
        now: Origin of the new embeddings.
        where: Path of the existing embeddings.
    """
    if "model" in before and before["model"] != now["model"]:
        raise UserError(
            f"'{where}' holds embeddings of {_named(before['model'])}, and this is "
            f"{_named(now['model'])}: they cannot be mixed. Give another --output, remove the "
            "old one, or give the same version."
        )


def _named(model: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in model.items())

"""Embeddings in a file: Parquet with `key` and `embedding`, or .npy with its keys beside it.

What they belong to is in the file, too: the model that made them, and the folder that the keys start
from. A file appears under its name only when it is complete.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from serving.errors import UserError
from serving.search.replacing import replacing

_METADATA = b"byol_tf"
_ROWS_AT_ONCE = 65536


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Embeddings and their keys.

    Attributes:
        keys: N strings, paths of images.
        values: float32 [N, D].
        about: `model`, a dictionary that is equal for embeddings that may be compared, and `root`,
            the folder that relative keys start from; empty where the file does not tell.
    """

    keys: list[str]
    values: np.ndarray
    about: dict[str, Any] = dataclasses.field(default_factory=dict)


def check_name(path: str) -> None:
    """Raises `UserError` unless `path` has the suffix of a format."""
    if not path.endswith((".parquet", ".npy")):
        raise UserError(f"'{path}' names no format; end it in .parquet or .npy.")


def keys_path(path: str) -> str:
    """Where the keys of a .npy file are."""
    return f"{path.removesuffix('.npy')}.keys.json"


def read(path: str) -> Embeddings:
    """Reads a file that `write` wrote, or a Parquet file of the pipeline's CorpusEmbedder.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    with _reading(path):
        return _read_npy(path) if path.endswith(".npy") else _read_parquet(path)


def read_keys(path: str) -> tuple[list[str], dict[str, Any]]:
    """Keys and `about` of a file, as `read`, without the embeddings."""
    with _reading(path):
        if path.endswith(".npy"):
            found = _read_npy(path)  # Mapped, not read.
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
            f"there is no file '{error.filename or path}'; make it with byol-embed --output={path}."
        ) from error
    except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"'{path}' holds no embeddings with their keys ({error}); make it with byol-embed."
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
    # Killed between the two files, the keys are those of the longer file that was to come.
    keys = keys[: len(values)]
    return Embeddings(keys, values, about)


def write(path: str, parts: Iterable[Embeddings], count: int, about: dict[str, Any]) -> None:
    """Writes parts one after the other as one file, each held in memory only while it is written.

    Args:
        path: `.parquet` or `.npy`.
        parts: at least one, all of one D.
        count: rows of all parts.
        about: of `Embeddings`.

    Raises:
        UserError: the file cannot be written.
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
                keys, values = (
                    of[start : start + _ROWS_AT_ONCE] for of in (part.keys, part.values)
                )
                offsets = pa.array(np.arange(len(keys) + 1) * values.shape[1], pa.int32())
                column = pa.ListArray.from_arrays(offsets, pa.array(np.ravel(values), pa.float32()))
                writer.write_table(
                    pa.Table.from_arrays([pa.array(keys, pa.string()), column], schema=schema)
                )


def _write_npy(path: str, parts: Iterable[Embeddings], count: int) -> list[str]:
    keys, values = [], None
    for part in parts:
        if values is None:
            shape = (count, part.values.shape[1])
            values = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        values[len(keys) : len(keys) + len(part.keys)] = part.values
        keys += part.keys
    values.flush()
    return keys


class Parts:
    """What a run of byol-embed has done so far, in a folder beside its output; survives a kill.

    Args:
        output: of the run; the folder is `OUTPUT.parts`.
        about: of `Embeddings`.

    Attributes:
        keys: of the embeddings that are kept.

    Raises:
        UserError: the folder holds the work of another model.
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
        """Keeps more embeddings."""
        file = os.path.join(self._folder, f"{len(self._files):06d}.parquet")
        write(file, [Embeddings(keys, values)], len(keys), self._about)
        self._files.append(file)
        self.keys.update(keys)

    def all(self) -> Iterator[Embeddings]:
        """What was kept, a part at a time."""
        return map(read, self._files)

    def clear(self) -> None:
        """Forgets what was kept."""
        for name in os.listdir(self._folder):
            os.remove(os.path.join(self._folder, name))
        self._files.clear()
        self.keys.clear()

    def remove(self) -> None:
        """Removes the folder."""
        self.clear()
        os.rmdir(self._folder)


def check_same_model(before: dict[str, Any], now: dict[str, Any], where: str) -> None:
    """Raises `UserError` if the embeddings `where` come from another model: they cannot be compared.

    Args:
        before: what is known `about` those; nothing, where their file does not tell.
        now: about the others.
        where: a path.
    """
    if "model" in before and before["model"] != now["model"]:
        raise UserError(
            f"'{where}' holds embeddings of {_named(before['model'])}, and this is {_named(now['model'])}: they "
            "cannot be mixed. Give another --output, remove the old one, or ask for the same version."
        )


def _named(model: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in model.items())

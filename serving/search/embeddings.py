"""Files of embeddings: Parquet with `key` and `embedding`, or .npy with its keys beside it.

The file also records the model that made the embeddings, the folder that the keys start from, and
size and modification time of each image. Files are written atomically.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from serving.errors import UserError
from serving.search import npy_file, parquet_file
from serving.search.npy_file import keys_path
from serving.search.replacing import replacing

_ROWS_AT_ONCE = 65536


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Embeddings and their keys.

    Attributes:
        keys: Paths of the N images.
        values: Embeddings, float32 `[N, D]`.
        about: Origin of the embeddings: `model`, a dictionary that names the model; `probe`, its
            embedding of one fixed image (see `identity`); and `root`, the folder that relative keys
            start from. Empty if the file does not record it.
        stats: Size in bytes and modification time in nanoseconds of each image's file when it was
            embedded, int64 `[N, 2]`; -1 where unknown.
        digest: SHA-256 of the file that the embeddings were read from, or empty.
    """

    keys: list[str]
    values: np.ndarray
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    stats: np.ndarray = None  # type: ignore[assignment]  # Set below if it is not given.
    digest: str = ""

    def __post_init__(self) -> None:
        if self.stats is None:
            object.__setattr__(self, "stats", np.full([len(self.keys), 2], -1, np.int64))

    def where(self, keep: np.ndarray) -> Iterator["Embeddings"]:
        """Yields the rows that a mask, bool `[N]`, chooses, some thousands at a time."""
        for start in range(0, len(self.keys), _ROWS_AT_ONCE):
            rows = start + np.flatnonzero(keep[start : start + _ROWS_AT_ONCE])
            if len(rows):
                keys = [self.keys[row] for row in rows]
                yield Embeddings(keys, self.values[rows], self.about, self.stats[rows])


def check_name(path: str) -> None:
    """Raises `UserError` unless `path` has the suffix of a format."""
    if not path.endswith((".parquet", ".npy")):
        raise UserError(f"'{path}' has no suffix of a known format; end it in .parquet or .npy.")


def index_path(path: str) -> str:
    """Returns the path of the search index of a file of embeddings."""
    return f"{path}.faiss"


def file_digest(path: str) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(path: str) -> Embeddings:
    """Reads a file written by `write`, or a Parquet file of the pipeline's CorpusEmbedder.

    Raises:
        UserError: The file does not exist or does not hold embeddings.
    """
    with reading(path):
        # First: if another process replaces the file now, the digest will not fit and nobody uses
        # it, instead of fitting to other embeddings.
        digest = file_digest(path)
        if path.endswith(".npy"):
            keys, values, stats, about = npy_file.read(path, digest)
        else:
            keys, values, stats, about = parquet_file.read(path)
        _check_keys(keys)
        for start in range(0, len(keys), _ROWS_AT_ONCE):
            if not np.isfinite(values[start : start + _ROWS_AT_ONCE]).all():
                raise ValueError("it has an embedding with NaN or infinity")
        return Embeddings(keys, values, checked_about(about), stats, digest)


def read_keys(path: str, with_digest: bool = True) -> Embeddings:
    """Reads a file like `read` except for the embeddings: `values` has their shape and only 0.

    Args:
        path: Path of the file.
        with_digest: Whether the whole file is read for its digest.
    """
    with reading(path):
        digest = file_digest(path) if with_digest or path.endswith(".npy") else ""
        if path.endswith(".npy"):
            keys, values, stats, about = npy_file.read(path, digest)
            size = values.shape[1]
        else:
            keys, size, stats, about = parquet_file.read_keys(path)
        _check_keys(keys)
        zeros = np.broadcast_to(np.float32(0), [len(keys), size])
        return Embeddings(keys, zeros, checked_about(about), stats, digest)


def _check_keys(keys: list[str]) -> None:
    if not keys:
        raise ValueError("it has no rows")
    "".join(keys).encode()  # JSON can hold halves of characters, which no name and no page can.


def checked_about(about: Any) -> dict[str, Any]:
    """Returns what a file records of its origin; raises `ValueError` if it has another form."""
    if (
        not isinstance(about, dict)
        or not isinstance(about.get("root", ""), str)
        or not isinstance(about.get("model", {}), dict)
        or not isinstance(about.get("probe", []), list)
        or not all(isinstance(number, float) for number in about.get("probe", []))
    ):
        raise ValueError("its record of the model and the folder has another form")
    return about


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Turns errors of a file that holds no embeddings into a `UserError`."""
    check_name(path)
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(
            f"the file '{error.filename or path}' does not exist; make it with byol-embed "
            f"--output={path}."
        ) from error
    except RuntimeError as error:
        if "arrow.py_extension_type" in str(error):
            raise UserError(
                f"'{path}' has a column of a pickled type, which can run code when it is read; "
                "make the file with byol-embed."
            ) from error
        if not isinstance(error, RecursionError):
            raise
        raise UserError(
            f"'{path}' has JSON nested too deeply to be its keys; make it with byol-embed."
        ) from error
    except (
        # Arrow raises OSError for a damaged file as well as for one that may not be read.
        pa.ArrowException, OSError, KeyError, ValueError, TypeError, OverflowError, MemoryError
    ) as error:  # fmt: skip
        reason = getattr(error, "strerror", None) or str(error).strip().partition("\n")[0]
        raise UserError(
            f"'{path}' does not hold embeddings with their keys ({reason}); make it with "
            "byol-embed."
        ) from error


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
            npy_file.write(temporary, keys_temporary, parts, count, about)
    else:
        with replacing(path) as temporary:
            parquet_file.write(temporary, parts, about)

"""Exact nearest neighbours by cosine similarity, with Faiss.

A flat index compares a query with every embedding, at the speed of memory; that is fast enough, so
the search is exact. A saved index is memory-mapped, and the embeddings themselves are not decoded.

The file is Faiss's, with two SHA-256 after it: of the embeddings' file that the index was built
from, and of everything before. Faiss parses it only after its size, its header and both are right.
"""

import dataclasses
import hashlib
import os
import struct
import sys
from typing import Any

import faiss
import numpy as np

from serving.errors import UserError
from serving.search import embeddings
from serving.search.embeddings import index_path
from serving.search.replacing import replacing

_ROWS_AT_ONCE = 8192
# Faiss's header of IndexFlatIP: type, D, N, two constants, is_trained, metric, N * D.
_HEADER = struct.Struct("<4siqqq?iq")
_DIGEST_BYTES = 32


@dataclasses.dataclass(frozen=True)
class Index:
    """An index of N embeddings.

    Attributes:
        keys: Keys of the embeddings.
        about: Origin of the embeddings, see `Embeddings`.
        flat: Faiss index of the N unit vectors of size D.
        digest: SHA-256 of the embeddings' file, or empty if they are of no file.
    """

    keys: list[str]
    about: dict[str, Any]
    flat: faiss.Index
    digest: str = ""

    def unit(self, row: int) -> np.ndarray:
        """Returns an embedding divided by its length, float32 `[D]`."""
        return self.flat.reconstruct(row)

    def nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Finds the k embeddings most similar to each query.

        Args:
            queries: Vectors of any length, float `[Q, D]`.
            k: Number of neighbours, at least 1.

        Returns:
            Cosine similarities, float32, and rows, int64, both `[Q, min(k, N)]`, the most similar
            first.
        """
        return self.flat.search(_unit(queries), min(k, len(self.keys)))


def build(found: embeddings.Embeddings) -> Index:
    """Builds an index of embeddings in memory."""
    flat = faiss.IndexFlatIP(found.values.shape[1])
    for start in range(0, len(found.keys), _ROWS_AT_ONCE):
        flat.add(_unit(found.values[start : start + _ROWS_AT_ONCE]))
    return Index(found.keys, found.about, flat, found.digest)


def save(index: Index, embeddings_path: str) -> None:
    """Writes an index of embeddings that were read from a file beside that file.

    Raises:
        UserError: The index cannot be written.
    """
    with replacing(index_path(embeddings_path)) as temporary:
        try:
            faiss.write_index(index.flat, temporary)
        except RuntimeError as error:  # Faiss raises this if the disk is full.
            raise OSError(str(error)) from error
        with open(temporary, "rb+") as file:
            digest = hashlib.file_digest(file, "sha256")
            digest.update(bytes.fromhex(index.digest))
            file.write(bytes.fromhex(index.digest) + digest.digest())


def update(embeddings_path: str) -> None:
    """Makes the saved index that of the embeddings, unless it is already.

    Raises:
        UserError: From `embeddings.read`, or the index cannot be written.
    """
    if not _is_of(index_path(embeddings_path), embeddings.read_keys(embeddings_path)):
        save(build(embeddings.read(embeddings_path)), embeddings_path)


def open_or_build(embeddings_path: str) -> Index:
    """Opens the saved index; builds one if there is none, or none of these embeddings.

    An index that is damaged or of other embeddings is replaced, with a notice.

    Raises:
        UserError: From `embeddings.read`.
    """
    path = index_path(embeddings_path)
    if not os.path.exists(path):
        return build(embeddings.read(embeddings_path))
    known = embeddings.read_keys(embeddings_path)
    if _is_of(path, known):
        flat = faiss.read_index(path, faiss.IO_FLAG_MMAP)
        return Index(known.keys, known.about, flat, known.digest)
    index = build(embeddings.read(embeddings_path))
    notice = f"notice: '{path}' is damaged or of other embeddings; it was built again"
    try:
        save(index, embeddings_path)
        print(f"{notice}.", file=sys.stderr)
    except UserError as error:
        print(f"{notice}, but not saved: {error}", file=sys.stderr)
    return index


def _is_of(path: str, known: embeddings.Embeddings) -> bool:
    """Returns whether a file is the undamaged index of these embeddings, safe to parse."""
    if not os.path.isfile(path) or os.path.getsize(path) < _HEADER.size + 2 * _DIGEST_BYTES:
        return False
    try:
        content = np.memmap(path, np.uint8, "r").data
    except OSError:  # Not readable.
        return False
    count, size = known.values.shape
    header = _HEADER.pack(b"IxFI", size, count, 1 << 20, 1 << 20, True, 0, count * size)
    signed, digest = content[:-_DIGEST_BYTES], bytes(content[-_DIGEST_BYTES:])
    return (
        len(signed) == len(header) + 4 * count * size + _DIGEST_BYTES
        and bytes(signed[: len(header)]) == header
        and bytes(signed[-_DIGEST_BYTES:]).hex() == known.digest
        and hashlib.sha256(signed).digest() == digest
    )


def _unit(values: np.ndarray) -> np.ndarray:
    """Returns vectors divided by their lengths, whose squares float32 may be too small for."""
    values = np.asarray(values, np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return (values / np.where(lengths > 0, lengths, 1)).astype(np.float32)

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
from collections.abc import Iterable
from typing import Any, ClassVar

import faiss
import numpy as np

from serving.errors import UserError
from serving.search import embeddings, partitioned_index, scan
from serving.search.corpus import Corpus, is_corpus
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

    how: ClassVar[str] = "exactly"

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def size(self) -> int:
        """D."""
        return self.flat.d

    def key(self, row: int) -> str:
        """Returns the key of a row."""
        return self.keys[row]

    def rows(self, keys: Iterable[str]) -> dict[str, int]:
        """Returns the rows of those keys that the index has."""
        wanted = set(keys)
        return {key: row for row, key in enumerate(self.keys) if key in wanted}

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
        return self.flat.search(scan.unit(queries), min(k, len(self.keys)))


def build(found: embeddings.Embeddings) -> Index:
    """Builds an index of embeddings in memory."""
    flat = faiss.IndexFlatIP(found.values.shape[1])
    for start in range(0, len(found.keys), _ROWS_AT_ONCE):
        flat.add(scan.unit(found.values[start : start + _ROWS_AT_ONCE]))
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


def update(embeddings_path: str) -> str:
    """Makes the saved index that of the embeddings, unless it is already.

    Returns:
        A sentence about an index that is approximate, or empty.

    Raises:
        UserError: From `embeddings.read`, or the index cannot be written.
    """
    if is_corpus(embeddings_path):
        return partitioned_index.update(Corpus(embeddings_path))
    if not _is_of(index_path(embeddings_path), embeddings.read_keys(embeddings_path)):
        save(build(embeddings.read(embeddings_path)), embeddings_path)
    return ""


def open_or_build(embeddings_path: str) -> "Index | partitioned_index.PartitionedIndex":
    """Opens the saved index; builds one if there is none, or none of these embeddings.

    An index that is damaged or of other embeddings is replaced, with a notice. For a folder of
    partitions none is built: without one, the embeddings themselves are searched.

    Raises:
        UserError: From `embeddings.read`.
    """
    if is_corpus(embeddings_path):
        return partitioned_index.open_index(Corpus(embeddings_path))
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

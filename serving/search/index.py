"""Exact nearest neighbours by cosine similarity, with Faiss.

A flat index compares a query with every embedding, at the speed of memory; that is fast enough, so
the search is exact. A saved index is memory-mapped, and the embeddings themselves are not read.
"""

import dataclasses
import os
from typing import Any

import faiss
import numpy as np

from serving.search import embeddings
from serving.search.replacing import replacing

_ROWS_AT_ONCE = 65536


@dataclasses.dataclass(frozen=True)
class Index:
    """An index of N embeddings.

    Attributes:
        keys: Keys of the embeddings.
        about: Origin of the embeddings, see `Embeddings`.
        flat: Faiss index of the N unit vectors of size D.
    """

    keys: list[str]
    about: dict[str, Any]
    flat: faiss.Index

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
    return Index(found.keys, found.about, flat)


def index_path(embeddings_path: str) -> str:
    """Returns the path of the index of a file of embeddings."""
    return f"{embeddings_path}.faiss"


def save(index: Index, embeddings_path: str) -> None:
    """Writes the index beside its embeddings.

    Raises:
        UserError: The index cannot be written.
    """
    with replacing(index_path(embeddings_path)) as temporary:
        try:
            faiss.write_index(index.flat, temporary)
        except RuntimeError as error:  # Faiss raises this if the disk is full.
            raise OSError(str(error)) from error


def open_or_build(embeddings_path: str) -> Index:
    """Opens the saved index, or builds one if it does not exist or the embeddings are newer.

    Raises:
        UserError: From `embeddings.read`.
    """
    path = index_path(embeddings_path)
    if os.path.exists(path) and os.path.getmtime(path) >= os.path.getmtime(embeddings_path):
        keys, about = embeddings.read_keys(embeddings_path)
        flat = faiss.read_index(path, faiss.IO_FLAG_MMAP)
        if flat.ntotal == len(keys):
            return Index(keys, about, flat)
    return build(embeddings.read(embeddings_path))


def _unit(values: np.ndarray) -> np.ndarray:
    values = np.array(values, np.float32, order="C")
    faiss.normalize_L2(values)
    return values

"""Exact nearest neighbours by cosine similarity, with Faiss.

Exact, for it is fast enough: a flat index compares a query with every embedding, at the speed of
memory. Saved to a file it is mapped and not read.
"""

import os

import faiss
import numpy as np

from serving.errors import UserError
from serving.search.embeddings import Embeddings

_ROWS_AT_ONCE = 65536


def index_path(embeddings_path: str) -> str:
    """Where the index of a file of embeddings is."""
    return f"{embeddings_path}.faiss"


def build(values: np.ndarray) -> faiss.IndexFlatIP:
    """An index of embeddings [N, D], each divided by its length."""
    index = faiss.IndexFlatIP(values.shape[1])
    for start in range(0, len(values), _ROWS_AT_ONCE):
        index.add(_unit(values[start : start + _ROWS_AT_ONCE]))
    return index


def save(index: faiss.Index, embeddings_path: str) -> None:
    """Writes the index beside its embeddings.

    Raises:
        UserError: it cannot be written.
    """
    path = index_path(embeddings_path)
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        faiss.write_index(index, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot write '{path}' ({error}).") from error
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def open_or_build(embeddings_path: str, embeddings: Embeddings) -> faiss.Index:
    """The saved index, unless there is none or the embeddings are newer; then one is built in memory."""
    path = index_path(embeddings_path)
    if os.path.exists(path) and os.path.getmtime(path) >= os.path.getmtime(embeddings_path):
        index = faiss.read_index(path, faiss.IO_FLAG_MMAP)
        if index.ntotal == len(embeddings.keys) and index.d == embeddings.values.shape[1]:
            return index
    return build(embeddings.values)


def nearest(index: faiss.Index, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar embeddings of each query.

    Args:
        index: of N embeddings of size D.
        queries: float [Q, D].
        k: at least 1.

    Returns:
        Cosine similarities float32 and rows int64, both [Q, min(k, N)], the most similar first.
    """
    return index.search(_unit(queries), min(k, index.ntotal))


def _unit(values: np.ndarray) -> np.ndarray:
    values = np.array(values, np.float32, order="C")
    faiss.normalize_L2(values)
    return values

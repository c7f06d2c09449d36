"""Exact nearest neighbours of a few queries in one pass over blocks of embeddings."""

from collections.abc import Iterable

import numpy as np


def unit(values: np.ndarray) -> np.ndarray:
    """Returns vectors divided by their lengths, whose squares float32 may be too small for."""
    values = np.asarray(values, np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return (values / np.where(lengths > 0, lengths, 1)).astype(np.float32)


class Nearest:
    """The k most similar of all vectors that it has met, to each of Q queries.

    Args:
        queries: Unit vectors, float32 `[Q, D]`.
        k: Number of neighbours.

    Attributes:
        similarities: Cosine similarities, float32 `[Q, k]`, the greatest first; -inf if fewer than
            k vectors were met.
        rows: Their rows, int64 `[Q, k]`; -1 where there is none.
    """

    def __init__(self, queries: np.ndarray, k: int):
        self._queries = queries
        self.similarities = np.full([len(queries), k], -np.inf, np.float32)
        self.rows = np.full([len(queries), k], -1, np.int64)

    def meet(self, first: int, vectors: np.ndarray) -> None:
        """Compares with unit vectors, float32 `[B, D]`, of consecutive rows."""
        k = self.rows.shape[1]
        scores = self._queries @ vectors.T
        if len(vectors) > k:
            best = np.argpartition(scores, -k, axis=1)[:, -k:]
            scores = np.take_along_axis(scores, best, axis=1)
        else:
            best = np.broadcast_to(np.arange(len(vectors)), scores.shape)
        scores = np.concatenate([self.similarities, scores], axis=1)
        rows = np.concatenate([self.rows, first + best], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        self.similarities = np.take_along_axis(scores, order, axis=1)
        self.rows = np.take_along_axis(rows, order, axis=1)


def nearest(
    blocks: Iterable[tuple[int, np.ndarray]], queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns similarities and rows `[Q, k]` of the nearest vectors of any length."""
    found = Nearest(unit(queries), k)
    for first, block in blocks:
        found.meet(first, unit(block))
    return found.similarities, found.rows

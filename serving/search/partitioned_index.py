"""Nearest neighbours in a folder of partitions: approximate with an index, exact without one."""

import os
import sys
from collections.abc import Collection

import numpy as np

from serving.search import approximate, partitions, scan
from serving.search.approximate import TARGET_RECALL, Approximate
from serving.search.corpus import Corpus
from serving.search.embeddings import index_path
from serving.search.ivf_file import Header


class PartitionedIndex:
    """A search of N embeddings on disk; see `Index` for what it has in common with that.

    Args:
        corpus: The embeddings.
        index: Their index, or None to compare queries with all of them.
    """

    def __init__(self, corpus: Corpus, index: Approximate | None):
        self._corpus, self._index = corpus, index
        self.about = corpus.about
        self.size = corpus.size
        self.how = (
            f"approximately (recall {index.header.recall:.3f} of the 10 nearest)"
            if index
            else "exactly"
        )

    def __len__(self) -> int:
        return len(self._corpus)

    def key(self, row: int) -> str:
        """Returns the key of a row."""
        return self._corpus.key(row)

    def rows(self, keys: Collection[str]) -> dict[str, int]:
        """Returns the rows of those keys that the corpus has."""
        return self._corpus.rows(keys)

    def unit(self, row: int) -> np.ndarray:
        """Returns an embedding divided by its length, float32 `[D]`."""
        return scan.unit(self._corpus.values(np.array([row])))[0]

    def nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns similarities and rows `[Q, min(k, N)]`; see `Index.nearest`.

        Where an approximate search finds fewer, the last rows are -1.
        """
        if self._index:
            return self._index.nearest(queries, k)
        return scan.nearest(self._corpus.blocks("comparing"), queries, min(k, len(self)))


def open_index(corpus: Corpus) -> PartitionedIndex:
    """Opens the saved index of a corpus; one that is damaged, or of another, is not used."""
    path = index_path(corpus.folder)
    index, reason = None, ""
    if os.path.exists(path):
        try:
            index = approximate.open_index(corpus)
        except (OSError, ValueError) as error:
            reason = f"'{path}' is not used: {error}. "
    if not index and (reason or len(corpus) > partitions.LARGE):
        print(
            f"notice: {reason}The query is compared with every embedding; byol-embed --index "
            "makes an index for faster searches.",
            file=sys.stderr,
        )
    return PartitionedIndex(corpus, index)


def update(corpus: Corpus) -> str:
    """Makes the saved index that of a corpus, unless it is already; returns a sentence about it.

    A corpus that is not large gets none, and one that is left from before is removed.
    """
    path = index_path(corpus.folder)
    if len(corpus) <= partitions.LARGE:
        if os.path.exists(path):
            os.remove(path)
        return f"{len(corpus):,} embeddings are searched exactly, without an index."
    try:
        return _told(path, approximate.open_index(corpus).header)
    except (OSError, ValueError):
        return _told(path, approximate.build(corpus))


def _told(path: str, header: Header) -> str:
    found = (
        f"{path} finds {header.recall:.1%} of the 10 nearest images of an image, with "
        f"{header.probes} of its {header.lists:,} lists"
    )
    if header.recall >= TARGET_RECALL:
        return f"{found}."
    return (
        f"{found}: less than {TARGET_RECALL:.0%}, because the embeddings have no groups or no main "
        "directions. Remove it to search exactly."
    )

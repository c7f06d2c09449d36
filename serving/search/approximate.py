"""Approximate nearest neighbours of a large corpus: candidates by codes, compared exactly.

The vectors, rotated to the directions of most variance, are in inverted lists as codes of a product
quantiser (Jégou et al. 2011). A query looks at the codes of the lists nearest to it; the candidates
with the best codes are compared by their embeddings, which are read from the corpus on disk. How
many lists and candidates that takes is measured when the index is built.
"""

import dataclasses
import math
import os
import tempfile
from collections.abc import Iterator

import faiss
import numpy as np

from serving.search import ivf_file, scan
from serving.search.corpus import Corpus
from serving.search.embeddings import index_path
from serving.search.replacing import replacing

# Part of the ten nearest neighbours to find.
TARGET_RECALL = 0.95
_K = 10
_REDUCED = 128
_LISTS_PER_ROOT = 2  # Lists for each square root of N.
_TRAINED_ON = 65536
_QUERIES = 400
_CANDIDATES = (50, 100, 200, 400, 800)


class Approximate:
    """An index of a corpus.

    Args:
        corpus: Corpus of N embeddings.
        lists: Its index.
    """

    def __init__(self, corpus: Corpus, lists: ivf_file.Lists):
        self._corpus, self._lists = corpus, lists

    @property
    def header(self) -> ivf_file.Header:
        """Sizes of the index, its settings and the recall that was measured."""
        return self._lists.header

    def nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns similarities and rows of neighbours, both `[Q, min(k, N)]`; see `Index.nearest`.

        The similarities are exact. Where fewer are found, the last rows are -1, with -inf.
        """
        k = min(k, len(self._corpus))
        wanted = min(len(self._corpus), math.ceil(self._lists.header.candidates * max(1, k / _K)))
        queries = scan.unit(queries)
        rows = np.full([len(queries), k], -1, np.int64)
        similarities = np.full([len(queries), k], -np.inf, np.float32)
        for place, found in enumerate(self._lists.candidates(queries, wanted)):
            found = np.unique(found[found >= 0])
            scores = scan.unit(self._corpus.values(found)) @ queries[place]
            best = np.argsort(-scores, kind="stable")[:k]
            rows[place, : len(best)], similarities[place, : len(best)] = found[best], scores[best]
        return similarities, rows


def open_index(corpus: Corpus) -> Approximate:
    """Opens the saved index of a corpus.

    Raises:
        ValueError: It is damaged, or of other embeddings.
        OSError: It cannot be read.
    """
    lists = ivf_file.Lists(index_path(corpus.folder))
    header = lists.header
    if (header.digest, header.count, header.size) != (corpus.digest, len(corpus), corpus.size):
        raise ValueError("it is of other embeddings")
    return Approximate(corpus, lists)


def build(corpus: Corpus) -> ivf_file.Header:
    """Builds and saves the index of a corpus; in memory are blocks, and 20 bytes per embedding.

    Returns:
        The header, with the recall; it is below `TARGET_RECALL` if no setting reaches that.

    Raises:
        UserError: The index cannot be written, or an embedding is damaged.
    """
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(corpus))[: _TRAINED_ON + _QUERIES]
    held_out, sample = np.sort(chosen[-_QUERIES:]), np.sort(chosen[:-_QUERIES])
    if not len(sample):
        sample = held_out
    rotation, ivf = _train(corpus, sample)
    path = index_path(corpus.folder)
    with replacing(path) as temporary:
        # One more than ten: each of these queries is its own nearest neighbour.
        exact = scan.Nearest(scan.unit(corpus.values(held_out)), _K + 1)
        lists = np.empty(len(corpus), np.int32)
        with tempfile.TemporaryFile(dir=os.path.dirname(path) or ".") as file:
            codes = np.memmap(file, np.uint8, "w+", shape=(len(corpus), ivf.code_size))
            for first, block in corpus.blocks("indexing"):
                vectors = scan.unit(block)
                exact.meet(first, vectors)
                rows = slice(first, first + len(block))
                lists[rows], codes[rows] = _encode(ivf, vectors @ rotation.T)
            header = ivf_file.Header(
                corpus.size, ivf.d, ivf.code_size, ivf.nlist, len(corpus), 1, _K, 0, corpus.digest
            )
            with open(temporary, "wb") as opened:
                ivf_file.write(opened, header, _arrays(rotation, ivf), lists, codes)
        header = _measured(ivf_file.Lists(temporary, signed=False), corpus, held_out, exact)
        ivf_file.set_header(temporary, header)
        ivf_file.sign(temporary)
    return header


def _train(corpus: Corpus, sample: np.ndarray) -> tuple[np.ndarray, faiss.IndexIVFPQ]:
    """Returns the rotation, float32 `[d, D]`, and lists and codes that fit a sample of rows."""
    vectors = scan.unit(corpus.values(sample))
    reduced = max(1, min(corpus.size, _REDUCED) // 2 * 2)
    rotation = _rotation(vectors, reduced)
    count = min(round(_LISTS_PER_ROOT * math.sqrt(len(corpus))), max(1, len(sample) // 8))
    ivf = faiss.IndexIVFPQ(
        faiss.IndexFlatL2(reduced), reduced, count, max(1, reduced // 2), 8,
        faiss.METRIC_INNER_PRODUCT,
    )  # fmt: skip
    for clustering in (ivf.cp, ivf.pq.cp):
        clustering.niter, clustering.min_points_per_centroid = 10, 1
    ivf.train(np.ascontiguousarray(vectors @ rotation.T))
    return rotation, ivf


def _rotation(vectors: np.ndarray, reduced: int) -> np.ndarray:
    """Returns the d directions in which the squares of vectors are greatest, float32 `[d, D]`.

    Their mean is not subtracted: inner products have to stay the same. The directions are mixed at
    random, so that every sub-quantiser has a like part of the variance.
    """
    moments = np.zeros([vectors.shape[1]] * 2)
    for start in range(0, len(vectors), 8192):
        block = vectors[start : start + 8192]
        moments += block.T @ block
    directions = np.linalg.eigh(moments)[1][:, ::-1][:, :reduced]
    mixed, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(reduced, reduced)))
    return (directions @ mixed).T.astype(np.float32)


def _arrays(rotation: np.ndarray, ivf: faiss.IndexIVFPQ) -> dict[str, np.ndarray]:
    return {
        "rotation": rotation,
        "centroids": ivf.quantizer.reconstruct_n(0, ivf.nlist),
        "quantizers": faiss.vector_to_array(ivf.pq.centroids),
    }


def _encode(ivf: faiss.IndexIVFPQ, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the list of each vector, int64 `[B]`, and its code, uint8 `[B, M]`."""
    vectors = np.ascontiguousarray(vectors)
    lists = ivf.quantizer.assign(vectors, 1)[:, 0]
    centroids = ivf.quantizer.reconstruct_batch(lists)
    return lists, ivf.pq.compute_codes(vectors - centroids)


def _measured(
    lists: ivf_file.Lists, corpus: Corpus, held_out: np.ndarray, exact: scan.Nearest
) -> ivf_file.Header:
    """Returns the header with the least numbers of lists and candidates that reach the recall."""
    queries = scan.unit(corpus.values(held_out))
    expected = [
        set(rows[(rows != row) & (rows >= 0)][:_K].tolist())
        for row, rows in zip(held_out, exact.rows, strict=True)
    ]
    header = best = lists.header
    for probes in _probes(header.lists):
        # The query itself is one more.
        found = lists.candidates(queries, min(header.count, _CANDIDATES[-1] + 1), probes)
        for candidates in _CANDIDATES:
            recalls = np.array([
                len(wanted.intersection(rows[: candidates + 1].tolist())) / max(1, len(wanted))
                for wanted, rows in zip(expected, found, strict=True)
            ])  # fmt: skip
            tried = dataclasses.replace(
                header, probes=probes, candidates=candidates, recall=float(recalls.mean())
            )
            best = max(best, tried, key=lambda one: one.recall)
            # With a margin of two standard errors: it is a sample of all queries.
            if tried.recall - 2 * recalls.std() / math.sqrt(len(recalls)) >= TARGET_RECALL:
                return tried
    return best


def _probes(lists: int) -> Iterator[int]:
    """Yields numbers of lists to search, up to a quarter of all, or all if they are few."""
    probes = 4
    while probes < lists:
        if probes > max(64, lists // 4):
            return
        yield probes
        probes *= 2
    yield lists

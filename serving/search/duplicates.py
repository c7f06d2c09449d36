"""Groups of near-duplicates: images connected by pairs whose similarity is above a threshold."""

import dataclasses

import numpy as np
from tqdm import tqdm

from serving.search.index import Index

# Rows and columns of the similarities in memory at once: 32 MiB.
_ROWS, _COLUMNS = 1024, 8192
# Of a core, per product of two numbers: 14 s for 50,000 embeddings of size 128.
_SECONDS_PER_PRODUCT = 14 / (50_000**2 * 128)


@dataclasses.dataclass(frozen=True)
class Group:
    """Near-duplicates.

    Attributes:
        key: Key of the image that is most similar to all of the group.
        others: Keys of the others with their cosine similarities to it, the most similar first.
    """

    key: str
    others: list[tuple[str, float]]


def find(index: Index, threshold: float) -> list[Group]:
    """Returns the groups of two or more images, the largest first.

    An image belongs to a group if its cosine similarity with any member is at least the threshold,
    so two members may be less similar to each other.

    Args:
        index: Index of N embeddings; all pairs are compared, in memory that grows with N only.
        threshold: Cosine similarity, up to 1.
    """
    labels = _connected(index, threshold)
    order = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[order])) + 1
    groups = [_group(index, rows) for rows in np.split(order, starts) if len(rows) > 1]
    return sorted(groups, key=lambda group: (-len(group.others), group.key))


def seconds(count: int, size: int) -> float:
    """Returns about how long a processor core takes for N embeddings of size D."""
    return _SECONDS_PER_PRODUCT * count**2 * size


def _connected(index: Index, threshold: float) -> np.ndarray:
    """Returns a number per row, equal for connected rows, int64 `[N]`."""
    count = len(index.keys)
    labels = np.arange(count)
    for start in tqdm(range(0, count, _ROWS), unit_scale=_ROWS, unit=" images"):
        block = _vectors(index, start, _ROWS)
        for column in range(start, count, _COLUMNS):
            hits = block @ _vectors(index, column, _COLUMNS).T >= threshold
            for row in np.flatnonzero(hits.any(axis=1)):
                met = labels[column + np.flatnonzero(hits[row])]
                if (met != labels[start + row]).any():
                    # The labels that meet become one, everywhere.
                    joined = np.arange(count)
                    joined[met] = joined[labels[start + row]] = min(met.min(), labels[start + row])
                    labels = joined[labels]
    return labels


def _vectors(index: Index, start: int, count: int) -> np.ndarray:
    return index.flat.reconstruct_n(start, min(count, len(index.keys) - start))


def _group(index: Index, rows: np.ndarray) -> Group:
    vectors = index.flat.reconstruct_batch(rows)
    # The mean similarity to all members is the product with their mean.
    middle = np.argmax(vectors @ vectors.mean(axis=0))
    similarities = vectors @ vectors[middle]
    others = [place for place in np.argsort(-similarities, kind="stable") if place != middle]
    return Group(
        index.keys[rows[middle]],
        [(index.keys[rows[place]], float(similarities[place])) for place in others],
    )

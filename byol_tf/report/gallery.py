"""From embedded images to what the page shows of them: nearest neighbours, thumbnails, a map."""

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

_NEIGHBOURS = 8
_QUERIES, _QUERIES_OF_CLASSES = 8, 10
_THUMBNAIL = 96  # Pixels of the longer side.
_MAP_POINTS = 2000  # What t-SNE does in seconds.
TSNE_POINTS = 30  # Fewer have no neighbourhoods that t-SNE could keep.


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Embedded images to look at.

    Attributes:
        embeddings: float32 `[N, D]`.
        images: image files, JPEG or PNG bytes, by position: all N, or those of which a picture
            is wanted.
        keys: N names.
        labels: int `[N]`, or None.
        class_names: names by label, or None.
    """

    embeddings: np.ndarray
    images: Sequence[bytes] | Mapping[int, bytes]
    keys: Sequence[str]
    labels: np.ndarray | None = None
    class_names: Sequence[str] | None = None


@dataclasses.dataclass(frozen=True)
class Thumbnail:
    """A small picture as a data: URI; a tiny one is shown larger, pixel by pixel."""

    source: str
    tiny: bool


@dataclasses.dataclass(frozen=True)
class Tile:
    """One image of the page; `same` is whether it has its query's class, None if unknown."""

    thumbnail: Thumbnail | None  # None where Pillow cannot read the file.
    key: str
    class_name: str | None
    similarity: float | None = None
    same: bool | None = None


def unit(embeddings: np.ndarray) -> np.ndarray:
    """`[N, D]` with rows of length 1, so that products of rows are cosines."""
    embeddings = np.asarray(embeddings, np.float32)
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(lengths, np.finfo(np.float32).tiny)


def spread_queries(gallery: Gallery) -> np.ndarray:
    """Indices of the images whose neighbours are shown: one a class, else evenly spread."""
    if gallery.labels is None:
        return evenly(np.arange(len(gallery.keys)), _QUERIES)
    _, first_of_class = np.unique(gallery.labels, return_index=True)
    return evenly(first_of_class, _QUERIES_OF_CLASSES)


def nearest(
    embeddings: np.ndarray, query: np.ndarray, left_out: int = -1
) -> list[tuple[int, float]]:
    """(row, cosine) of the eight rows of `[N, D]` nearest to `query` `[D]`, nearest first.

    The row `left_out`, if any, does not count: it is the query itself.
    """
    similarity = unit(embeddings) @ unit(query[np.newaxis])[0]
    order = np.argsort(-similarity, kind="stable")
    return [(int(i), float(similarity[i])) for i in order[order != left_out][:_NEIGHBOURS]]


def neighbours(
    gallery: Gallery, among: Gallery | None = None
) -> list[tuple[int, list[tuple[int, float]]]]:
    """Positions of queries in `gallery`, each with (position, cosine) of its nearest.

    Args:
        gallery: of the queries.
        among: of their neighbours; by default `gallery` itself, but the query.

    Returns:
        Nothing where there is no neighbour, or numbers are not finite.
    """
    own = among is None
    candidates = gallery if own else among
    if not gallery.keys or len(candidates.keys) < 1 + own:
        return []
    if not _finite(gallery) or not _finite(candidates):
        return []
    return [
        (query, nearest(candidates.embeddings, gallery.embeddings[query], query if own else -1))
        for query in spread_queries(gallery).tolist()
    ]


def neighbour_rows(gallery: Gallery, among: Gallery | None = None) -> list[tuple[Tile, list[Tile]]]:
    """The `neighbours` as tiles."""
    candidates = gallery if among is None else among
    labelled = gallery.labels is not None and candidates.labels is not None

    def near_tile(query: int, index: int, similarity: float) -> Tile:
        same = bool(candidates.labels[index] == gallery.labels[query]) if labelled else None
        return dataclasses.replace(_tile(candidates, index), similarity=similarity, same=same)

    return [
        (_tile(gallery, query), [near_tile(query, *neighbour) for neighbour in near])
        for query, near in neighbours(gallery, among)
    ]


def class_name(gallery: Gallery, label: int) -> str:
    """The name of a label, or the label where it has none."""
    names = gallery.class_names or ()
    return names[label] if 0 <= label < len(names) else str(label)


def map_points(gallery: Gallery) -> tuple[np.ndarray, np.ndarray] | None:
    """The embeddings in two dimensions.

    Returns:
        Indices `[M]` of the images taken, all if they are not too many, and their places
        `[M, 2]`: t-SNE, or PCA for a few images. None where there is nothing to see: fewer than
        three images, numbers that are not finite, or all embeddings the same (a collapse).
    """
    # Imported here because it takes seconds, and a page without a map needs none of it.
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(gallery.keys) < 3 or not _finite(gallery):
        return None
    taken = evenly(np.arange(len(gallery.keys)), _MAP_POINTS)
    rows = unit(gallery.embeddings)[taken]
    # t-SNE divides by the spread of its start, and takes the process down where that is 0.
    if rows.shape[1] < 2 or np.ptp(rows, axis=0).max() < 1e-6:
        return None
    if len(rows) < TSNE_POINTS:
        return taken, PCA(2, random_state=0).fit_transform(rows)
    perplexity = min(30, (len(rows) - 1) / 3)
    return taken, TSNE(2, init="pca", perplexity=perplexity, random_state=0).fit_transform(rows)


def thumbnail(image: bytes) -> Thumbnail | None:
    """At most 96 x 96 pixels of an image file; None for what Pillow cannot read."""
    try:
        small = Image.open(io.BytesIO(image)).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None  # One odd file must not cost the page of a long run.
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=90, subsampling=0)
    source = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    return Thumbnail(source, tiny=max(small.size) <= _THUMBNAIL // 2)


def evenly(values: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of `values`, evenly spread."""
    if len(values) <= count:
        return values
    return values[np.linspace(0, len(values) - 1, count).round().astype(int)]


def _finite(gallery: Gallery) -> bool:
    return bool(np.isfinite(gallery.embeddings).all())


def _tile(gallery: Gallery, index: int) -> Tile:
    labels = gallery.labels
    return Tile(
        thumbnail=thumbnail(gallery.images[index]),
        key=gallery.keys[index],
        class_name=None if labels is None else class_name(gallery, int(labels[index])),
    )

"""Nearest neighbours, thumbnails and a map of embedded images."""

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageOps

from byol_tf.images import band_chunk

_NEIGHBOURS = 8
_QUERIES, _QUERIES_OF_CLASSES = 8, 10
_COMMON = (b"\xff\xd8", b"\x89PNG", b"BM", b"GIF8")  # First bytes of what Pillow opens as it is.
_THUMBNAIL = 96  # Pixels of the longer side.
_MAP_POINTS = 1000  # t-SNE takes seconds for these, and a page has a thumbnail of each.
TSNE_POINTS = 30  # t-SNE needs at least this many to have neighbourhoods to keep.


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Images with their embeddings.

    Attributes:
        embeddings: Embeddings, float32 `[N, D]`.
        images: Image files, as training reads them, by position: all N, or those to be shown.
        keys: N names.
        labels: Labels, int `[N]`, or None.
        class_names: Names by label, or None.
    """

    embeddings: np.ndarray
    images: Sequence[bytes] | Mapping[int, bytes]
    keys: Sequence[str]
    labels: np.ndarray | None = None
    class_names: Sequence[str] | None = None


@dataclasses.dataclass(frozen=True)
class Thumbnail:
    """A small picture as a data: URI; a tiny one is enlarged pixel by pixel."""

    source: str
    tiny: bool


@dataclasses.dataclass(frozen=True)
class Tile:
    """One image of the page; `same` says whether it has its query's class, None if unknown."""

    thumbnail: Thumbnail | None  # None if Pillow cannot read the file.
    key: str
    class_name: str | None
    similarity: float | None = None
    same: bool | None = None


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Returns `[N, D]` with rows of length 1, so that products of rows are cosines."""
    embeddings = np.asarray(embeddings, np.float32)
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(lengths, np.finfo(np.float32).tiny)


def spread_queries(gallery: Gallery) -> np.ndarray:
    """Returns positions of the images to show neighbours of: one per class, or evenly spaced."""
    if gallery.labels is None:
        return evenly(np.arange(len(gallery.keys)), _QUERIES)
    _, first_of_class = np.unique(gallery.labels, return_index=True)
    return evenly(first_of_class, _QUERIES_OF_CLASSES)


def nearest(
    embeddings: np.ndarray, query: np.ndarray, left_out: int = -1
) -> list[tuple[int, float]]:
    """Returns (row, cosine) of the eight rows of `[N, D]` nearest to `query` `[D]`, nearest first.

    The row `left_out`, if at least 0, is skipped: it is the query itself.
    """
    similarity = unit(embeddings) @ unit(query[np.newaxis])[0]
    order = np.argsort(-similarity, kind="stable")
    return [(int(i), float(similarity[i])) for i in order[order != left_out][:_NEIGHBOURS]]


def neighbours(
    gallery: Gallery, among: Gallery | None = None
) -> list[tuple[int, list[tuple[int, float]]]]:
    """Returns the positions of queries in `gallery`, each with (position, cosine) of its nearest.

    Args:
        gallery: Images to take the queries from.
        among: Images to take the neighbours from; by default `gallery` without the query.

    Returns:
        An empty list if there are no neighbours or embeddings are not finite.
    """
    own = among is None
    candidates = gallery if among is None else among
    if not gallery.keys or len(candidates.keys) < 1 + own:
        return []
    if not _finite(gallery) or not _finite(candidates):
        return []
    return [
        (query, nearest(candidates.embeddings, gallery.embeddings[query], query if own else -1))
        for query in spread_queries(gallery).tolist()
    ]


def neighbour_rows(gallery: Gallery, among: Gallery | None = None) -> list[tuple[Tile, list[Tile]]]:
    """Returns the `neighbours` as tiles; arguments are those of `neighbours`."""
    candidates = gallery if among is None else among
    labels, query_labels = candidates.labels, gallery.labels

    def near_tile(query: int, index: int, similarity: float) -> Tile:
        same = None
        if labels is not None and query_labels is not None:
            same = bool(labels[index] == query_labels[query])
        return dataclasses.replace(_tile(candidates, index), similarity=similarity, same=same)

    return [
        (_tile(gallery, query), [near_tile(query, *neighbour) for neighbour in near])
        for query, near in neighbours(gallery, among)
    ]


def class_name(gallery: Gallery, label: int) -> str:
    """Returns the name of a label, or the number if it has none."""
    names = gallery.class_names or ()
    return names[label] if 0 <= label < len(names) else str(label)


def mapped(count: int) -> np.ndarray:
    """Returns the positions of the images that a map of `count` images takes, evenly spaced."""
    return evenly(np.arange(count), _MAP_POINTS)


def map_points(gallery: Gallery) -> tuple[np.ndarray, np.ndarray] | None:
    """Projects the embeddings to two dimensions.

    Returns:
        Positions `[M]` of the images used, all unless there are too many, and their coordinates
        `[M, 2]` by t-SNE, or by PCA for a few images. None if there is nothing to show: fewer than
        three images, embeddings that are not finite, or all embeddings the same (a collapse).
    """
    # Imported here because it takes seconds, and a page without a map does not need it.
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(gallery.keys) < 3 or not _finite(gallery):
        return None
    taken = mapped(len(gallery.keys))
    rows = unit(gallery.embeddings)[taken]
    # t-SNE divides by the spread of its starting points and crashes the process if that is 0.
    if rows.shape[1] < 2 or np.ptp(rows, axis=0).max() < 1e-6:
        return None
    if len(rows) < TSNE_POINTS:
        return taken, PCA(2, random_state=0).fit_transform(rows)
    perplexity = min(30, (len(rows) - 1) / 3)
    return taken, TSNE(2, init="pca", perplexity=perplexity, random_state=0).fit_transform(rows)


def thumbnail(image: bytes, side: int = _THUMBNAIL) -> Thumbnail | None:
    """Returns an image file at no more than `side` pixels, or None if Pillow cannot read it."""
    small = reduced(image, side)
    if small is None:
        return None
    source = "data:image/jpeg;base64," + base64.b64encode(small).decode()
    return Thumbnail(source, tiny=max(Image.open(io.BytesIO(small)).size) <= side // 2)


def reduced(image: bytes, side: int = _THUMBNAIL) -> bytes | None:
    """Returns a JPEG of at most `side` x `side` pixels, or None if Pillow cannot read the file.

    Of more bands than a PNG has, the first three are shown; these and values of 16 bits are
    stretched, each band to its own range.
    """
    try:
        if not image.startswith(_COMMON):
            # Here, since it imports TensorFlow, which the pages of most runs do without.
            from byol_tf.images import file_formats

            image = file_formats.convert(image, "PNG")
        opened: Image.Image = Image.open(io.BytesIO(image), formats=["JPEG", "PNG", "BMP", "GIF"])
        stacked = band_chunk.number(image)
        if stacked or opened.mode.startswith("I"):
            opened = _stretched(np.asarray(opened), max(stacked, 1))
        small = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None  # One bad file must not cost the page of a long run.
    small.thumbnail((side, side))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=90, subsampling=0)
    return file.getvalue()


def _stretched(stored: np.ndarray, count: int) -> Image.Image:
    """Returns the first three of `count` bands, which lie below one another, or the only one."""
    shown = stored.reshape(count, -1, stored.shape[1])[: 3 if count >= 3 else 1].astype(float)
    low, high = np.percentile(shown, [1, 99], axis=(1, 2), keepdims=True)
    levels = np.clip(255 * (shown - low) / np.maximum(high - low, 1), 0, 255).astype(np.uint8)
    pixels = np.ascontiguousarray(np.moveaxis(levels, 0, -1))
    return Image.fromarray(pixels if len(levels) == 3 else pixels[..., 0])


def evenly(values: np.ndarray, count: int) -> np.ndarray:
    """Returns at most `count` of `values`, evenly spaced."""
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

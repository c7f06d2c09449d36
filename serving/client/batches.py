"""Images in any form → batches that one request can carry."""

import os
from collections.abc import Iterable, Iterator

import numpy as np

from serving.client.transport import Batch

Image = str | os.PathLike | bytes | np.ndarray

# Bytes of a batch, so that a few large photos make a request too.
_MAX_BYTES = 32 << 20


def in_batches(images: Iterable[Image], batch_size: int) -> Iterator[Batch]:
    """Batches of at most `batch_size` images, files with files and arrays with arrays of their shape.

    Args:
        images: paths of files, their contents, or arrays uint8 [H, W, 3], also mixed; one array
            [N, H, W, 3] is N of the last. Read as they are needed.
        batch_size: at least 1.

    Raises:
        OSError: a file cannot be read.
        ValueError: an array has another type or shape.
        TypeError: something is no image.
    """
    waiting: dict[tuple, tuple[list[int], list]] = {}
    sizes: dict[tuple, int] = {}
    for index, image in enumerate(images):
        value = content(image)
        kind = () if isinstance(value, bytes) else value.shape
        size = len(value) if isinstance(value, bytes) else value.nbytes
        if kind in waiting and sizes[kind] + size > _MAX_BYTES:
            yield Batch(*waiting.pop(kind))
        indices, values = waiting.setdefault(kind, ([], []))
        sizes[kind] = size + (sizes[kind] if values else 0)
        indices.append(index)
        values.append(value)
        if len(values) == batch_size:
            yield Batch(*waiting.pop(kind))
    for indices, values in waiting.values():
        yield Batch(indices, values)


def content(image: Image) -> bytes | np.ndarray:
    """What is sent of an image; see `in_batches`."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"an image array is {image.dtype} {list(image.shape)}; give uint8 [H, W, 3], RGB in 0 to 255."
            )
        return image
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, os.PathLike)):
        with open(image, "rb") as file:
            return file.read()
    raise TypeError(
        f"{type(image).__name__} is no image; give a path, bytes of a file, or a uint8 array."
    )

"""Groups images of any form into batches that one request can carry."""

import os
from collections.abc import Hashable, Iterable, Iterator
from typing import TypeAlias

import numpy as np

from serving.client.transport import Batch

Image: TypeAlias = str | os.PathLike | bytes | np.ndarray

# Maximum bytes of a batch: a few large photos are enough for one request.
_MAX_BYTES = 32 << 20


def in_batches(images: Iterable[Image] | Image, batch_size: int) -> Iterator[Batch]:
    """Yields batches of at most `batch_size` images: of files, or of arrays of one type and shape.

    Args:
        images: Paths of files, their contents, or arrays uint8 or uint16 `[H, W, C]`, also mixed;
            one array `[N, H, W, C]` is N images. They are read as they are needed. A single path,
            content or array `[H, W, C]` is one image.
        batch_size: Maximum number of images, at least 1.

    Raises:
        OSError: A file cannot be read, such as FileNotFoundError.
        ValueError: An array has another type or shape.
        TypeError: A value is not an image.
    """
    waiting: dict[Hashable, tuple[list[int], list]] = {}
    sizes: dict[Hashable, int] = {}
    for index, image in enumerate(_several(images)):
        value = content(image)
        kind = None if isinstance(value, bytes) else (value.dtype, value.shape)
        size = len(value) if isinstance(value, bytes) else value.nbytes
        if kind in waiting and sizes[kind] + size > _MAX_BYTES:
            yield _batch(*waiting.pop(kind))
        indices, values = waiting.setdefault(kind, ([], []))
        sizes[kind] = size + (sizes[kind] if values else 0)
        indices.append(index)
        values.append(value)
        if len(values) == batch_size:
            yield _batch(*waiting.pop(kind))
    for indices, values in waiting.values():
        yield _batch(indices, values)


def _several(images: Iterable[Image] | Image) -> Iterable[Image]:
    if isinstance(images, (str, os.PathLike, bytes)):
        return [images]
    if isinstance(images, np.ndarray) and images.ndim in (2, 3):
        return [images]
    return images if isinstance(images, Iterable) else [images]


def _batch(indices: list[int], values: list) -> Batch:
    return Batch(indices, values if isinstance(values[0], bytes) else np.stack(values))


def content(image: Image) -> bytes | np.ndarray:
    """Returns what a request carries of an image; see `in_batches`."""
    if isinstance(image, np.ndarray):
        native = image.dtype.newbyteorder("=")  # TIFF readers give the order of bytes of the file.
        if native not in (np.uint8, np.uint16) or image.ndim != 3:
            raise ValueError(
                f"an image array is {image.dtype} {list(image.shape)}; give uint8 or uint16 "
                "[H, W, C], with the model's number of channels, such as 3 for RGB."
            )
        return image.astype(native, copy=False)
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, os.PathLike)):
        try:
            with open(image, "rb") as file:
                return file.read()
        except OSError as error:
            raise type(error)(
                f"the image '{os.fspath(image)}' cannot be read ({error.strerror}); give the path "
                "of a file that exists and may be read."
            ) from error
    raise TypeError(
        f"a value of type {type(image).__name__} is not an image; give a path, the bytes of a "
        "file, or a uint8 or uint16 array."
    )

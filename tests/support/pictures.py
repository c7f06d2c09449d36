"""Image files for tests, made by Pillow, to compare TensorFlow's decoders with."""

import io
import pathlib
import shutil
import struct
import zlib
from collections.abc import Iterable

import numpy as np
from PIL import Image


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Returns a smooth random image, uint8 `[height, width, 3]`, whose crops all look different."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image: Image.Image, image_format: str, **options) -> bytes:
    """Returns the content of an image's file."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def copy_photos(
    images: pathlib.Path, folder: pathlib.Path, classes: Iterable[str], count: int
) -> pathlib.Path:
    """Copies the first `count` images of each class from `images` to `folder`; returns `folder`."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for file in sorted((images / name).glob("*.jpg"))[:count]:
            shutil.copy(file, folder / name)
    return folder


def png_claiming(width: int, height: int, pixels: bytes = b"") -> bytes:
    """Returns a PNG whose header claims this size, for any pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(pixels, 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


FORMATS = {
    "jpeg": ("RGB", "JPEG", {"quality": 95}),
    "progressive jpeg": ("RGB", "JPEG", {"quality": 95, "progressive": True}),
    "grey jpeg": ("L", "JPEG", {"quality": 95}),
    "png": ("RGB", "PNG", {}),
    "grey png": ("L", "PNG", {}),
    "palette png": ("P", "PNG", {}),
    "rgba png": ("RGBA", "PNG", {}),
    "bmp": ("RGB", "BMP", {}),
    "grey bmp": ("L", "BMP", {}),
    "rgba bmp": ("RGBA", "BMP", {}),
    "gif": ("P", "GIF", {}),
}

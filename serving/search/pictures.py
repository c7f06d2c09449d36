"""Thumbnails of images and links to them, for a page. Keys of a file may be a stranger's."""

import base64
import dataclasses
import io
import os
import urllib.parse
import warnings

import numpy as np
from PIL import Image, ImageOps

from serving import png
from serving.search import file_formats

# Pixels; thumbnails are shown at half this size, to be sharp on dense screens.
_THUMBNAIL = 320
_DECODED = ("JPEG", "PNG", "GIF", "BMP")  # By the encoder itself.
_MAX_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image on a page.

    Attributes:
        thumbnail: Data URI of a small version.
        link: Address of the file, relative to the page.
    """

    thumbnail: str
    link: str


class Pictures:
    """Finds the images of keys, but only below one folder.

    Args:
        folder: Folder below which images may be shown; None for nowhere.
        root: Folder that relative keys start from, which the embeddings' file names.
        page: Path of the page that shows the images.
    """

    def __init__(self, folder: str | None, root: str, page: str):
        self._folder = None if folder is None else os.path.realpath(folder)
        self._root = root
        self._page = os.path.dirname(os.path.realpath(page))

    def of_key(self, key: str) -> Picture | None:
        """Returns the image of a key; None if it is not below the folder or cannot be read."""
        if self._folder is None or "\0" in key:
            return None
        for start in (self._folder, self._root):
            path = os.path.realpath(os.path.join(start, key))
            if os.path.commonpath([path, self._folder]) == self._folder and os.path.isfile(path):
                return self.of_file(path)
        return None

    def of_file(self, path: str) -> Picture | None:
        """Returns the image of a file that the user named; None if it cannot be read."""
        thumbnail = _thumbnail(path)
        if thumbnail is None:
            return None
        relative = os.path.relpath(os.path.realpath(path), self._page)
        # Quoted, a colon cannot make a scheme of the first part, as in "javascript:".
        return Picture(thumbnail, urllib.parse.quote(os.fsencode(relative)))


def _thumbnail(path: str) -> str | None:
    try:
        if not os.path.isfile(path) or os.path.getsize(path) > _MAX_BYTES:
            return None
        image = _visible(path)
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    except Exception:  # Pillow's decoders raise many types for a damaged file.
        return None
    small = max(image.size) < _THUMBNAIL // 2
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if small else "JPEG", **({} if small else {"quality": 85}))
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _visible(path: str) -> Image.Image:
    """Returns what a screen shows of an image file: grey, RGB, or the first three of more bands.

    16 bits are stretched from the darkest value to the brightest: of those of an X-ray, often only
    12 are used.
    """
    content = file_formats.read(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(content), formats=_DECODED) as opened:
            opened.draft("RGB", (_THUMBNAIL, _THUMBNAIL))  # Decodes no more than needed.
            image = ImageOps.exif_transpose(opened)
    stacked = png.bands(content)
    if not stacked and not image.mode.startswith("I"):
        return image.convert("RGB")
    planes = np.asarray(image).reshape(stacked or 1, -1, image.width)
    pixels = np.moveaxis(planes[:3], 0, -1) if stacked >= 3 else planes[0]
    if pixels.dtype != np.uint8:
        low, high = int(pixels.min()), int(pixels.max())
        pixels = (pixels - np.float32(low)) * (255 / max(high - low, 1))
    return Image.fromarray(pixels.astype(np.uint8)).convert("RGB")

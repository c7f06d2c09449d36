"""Conversion of WebP, TIFF and HEIC files, which the model does not decode, to PNG."""

import functools
import io
import re

import numpy as np
from PIL import Image, ImageOps

from serving import png
from serving.search import tiff

# First bytes of WebP, TIFF and HEIC files; the suffix does not decide.
_FOR_PILLOW = rb"RIFF....WEBP|(II[*+]\x00|MM\x00[*+]).*|....ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)"


@functools.cache
def suffixes() -> tuple[str, ...]:
    """Returns the suffixes of the images that are read here; HEIC needs pillow-heif."""
    found = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
    try:
        import pillow_heif
    except ImportError:
        return found
    pillow_heif.register_heif_opener()
    return (*found, ".heic", ".heif")


def converted() -> list[str]:
    """Returns the names, in Pillow, of the formats that `read` converts."""
    return ["WEBP", "TIFF", *(["HEIF"] if ".heic" in suffixes() else [])]


def read(path: str) -> bytes:
    """Returns a file as the model decodes it: WebP, TIFF and HEIC as PNG, as in training.

    All bands and, grey or in a TIFF, 16 bits are kept; the model makes of them what it takes.

    Raises:
        OSError: The file cannot be read.
        ValueError: It cannot be decoded, or has too many pixels.
    """
    with open(path, "rb") as file:
        content = file.read()
    if not re.fullmatch(_FOR_PILLOW, content[:12], re.DOTALL):
        return content
    try:
        if tiff.is_beyond_pillow(content):
            return png.encode(tiff.read(content))
        with Image.open(io.BytesIO(content), formats=converted()) as opened:
            if opened.width * opened.height > tiff.MAX_PIXELS:
                raise ValueError(f"it has more pixels than the {tiff.MAX_PIXELS} that are read")
            image = ImageOps.exif_transpose(opened)
        if image.mode in ("I", "F"):
            raise ValueError("its pixels have 32 bits; give 8 or 16")
        if image.mode.startswith("I;16"):
            return png.encode(np.asarray(image).astype(np.uint16)[..., np.newaxis])
        kept = {"1": "L", "L": "L", "La": "LA", "LA": "LA", "RGBa": "RGBA", "RGBA": "RGBA"}
        if image.mode != "RGBX":  # Four bands, which are no colours and alpha.
            image = image.convert(kept.get(image.mode, "RGB"))
        return png.encode(np.atleast_3d(np.asarray(image)))
    except ValueError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ValueError("not a WebP, TIFF or HEIC file that Pillow reads") from error
    # Pillow's decoders raise many types, SyntaxError among them, for files from strangers.
    except Exception as error:
        raise ValueError(f"Pillow cannot decode it: {error or type(error).__name__}") from error

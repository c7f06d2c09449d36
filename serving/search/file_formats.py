"""Conversion of WebP, TIFF and HEIC files, which the model does not decode, to PNG."""

import functools
import io
import re

import numpy as np
from PIL import Image, ImageOps

from serving import png
from serving.client.transport import PixelFormat
from serving.search import tiff

_RGB = PixelFormat(3, "uint8")
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


def read(path: str, takes: PixelFormat = _RGB) -> bytes:
    """Returns a file as the model decodes it: WebP, TIFF and HEIC as PNG, as in training.

    Args:
        path: Path of the file.
        takes: Channels and type that the model takes.

    Raises:
        OSError: The file cannot be read.
        ValueError: It cannot be decoded, has too many pixels, or other bands than the model takes.
    """
    with open(path, "rb") as file:
        content = file.read()
    if not re.fullmatch(_FOR_PILLOW, content[:12], re.DOTALL):
        return content
    is_tiff, rgb_of_16 = content[:2] in (b"II", b"MM"), PixelFormat(3, "uint16")
    if is_tiff and (takes.channels not in (1, 3) or takes == rgb_of_16):
        return _as_png(tiff.read(content, takes.channels), takes)
    try:
        with Image.open(io.BytesIO(content), formats=converted()) as opened:
            if opened.width * opened.height > tiff.MAX_PIXELS:
                raise ValueError(f"it has more pixels than the {tiff.MAX_PIXELS} that are read")
            image = ImageOps.exif_transpose(opened)
        if image.mode in ("I", "F"):
            raise ValueError("its pixels have 32 bits; give 8 or 16")
        return _as_png(_pixels(image, takes.channels), takes)
    except ValueError:
        raise
    except Image.UnidentifiedImageError as error:
        found = tiff.samples_of(content) if is_tiff else None
        if found not in (None, takes.channels):
            raise ValueError(tiff.mismatch(found, takes.channels)) from error
        raise ValueError("not a WebP, TIFF or HEIC file that Pillow reads") from error
    # Pillow's decoders raise many types, SyntaxError among them, for files from strangers.
    except Exception as error:
        raise ValueError(f"Pillow cannot decode it: {error or type(error).__name__}") from error


def _pixels(image: Image.Image, channels: int) -> np.ndarray:
    """Returns the pixels of an image of Pillow, uint8 or uint16 `[H, W, C]`."""
    if channels in (1, 3):
        if image.mode.startswith("I;16"):
            pixels = np.asarray(image).astype(np.uint16)[..., np.newaxis]
            return np.broadcast_to(pixels, (*pixels.shape[:2], channels))
        image = image.convert("L" if channels == 1 else "RGB")
    pixels = np.atleast_3d(np.asarray(image))
    if pixels.shape[2] != channels:
        raise ValueError(tiff.mismatch(pixels.shape[2], channels))
    return pixels


def _as_png(pixels: np.ndarray, takes: PixelFormat) -> bytes:
    if pixels.dtype == np.uint16 and takes.dtype == "uint8":
        pixels = (pixels >> 8).astype(np.uint8)
    return png.encode(pixels)

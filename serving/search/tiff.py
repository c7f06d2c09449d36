"""TIFF files of any number of bands, 8 or 16 bits, read by tifffile.

The same as in training (byol_tf.images.tiff), which serving does not import; a test holds the two
against each other.
"""

import io
import logging
import math

import numpy as np

MAX_PIXELS = 2**26  # As many as an exported encoder takes.
# As many as the largest image that is taken has in RGB of 16 bits.
_MAX_BYTES = 6 * MAX_PIXELS
# Tiles reach over the border; all parts together are not much larger than the image.
_MAX_PARTS = 2 * _MAX_BYTES
# By their numbers in the file: none, LZW, Deflate (two), PackBits, Zstandard. Their decoders stop
# at the size that a part of the image has; others could unpack to anything.
_COMPRESSIONS = (1, 5, 8, 32946, 32773, 50000)
# Tags of the first page.
_BITS, _PHOTOMETRIC, _SAMPLES, _ORIENTATION = 258, 262, 277, 274
_MINISBLACK = 1


def is_beyond_pillow(content: bytes) -> bool:
    """Returns whether a file is a TIFF of several bands that are no colours, or of 16 bits each.

    Without the extra `tiff`, colours of 16 bits are for Pillow too, which takes the upper 8.
    """
    from PIL import TiffImagePlugin

    if content[:2] not in (b"II", b"MM"):
        return False
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(content[: 16 if 43 in content[2:4] else 8])
        file = io.BytesIO(content)
        file.seek(tags.next)
        tags.load(file)
        samples, bits = tags.get(_SAMPLES, 1), tags.get(_BITS, (1,))
        of_colors = tags.get(_PHOTOMETRIC) != _MINISBLACK and samples <= 4
        by_pillow = samples == 1 or (of_colors and (bits[0] == 8 or not is_installed()))
    except Exception:  # As of any parser of strangers' files; Pillow will say what is wrong.
        return False
    return not by_pillow


def is_installed() -> bool:
    """Returns whether the packages of the extra `tiff` are installed."""
    try:
        import imagecodecs  # noqa: F401  # tifffile's own decoders have no limit.
        import tifffile  # noqa: F401
    except ImportError:
        return False
    return True


def read(content: bytes) -> np.ndarray:
    """Returns the bands of a file's first page, upright: uint8 or uint16 `[H, W, C]`.

    Raises:
        ValueError: The image is not complete, too large, or of a kind that is not read; the message
            is a reason for a list of corrupt images.
    """
    if not is_installed():
        raise ValueError("it is a TIFF of several bands; pip install 'byol_tf[tiff]' to read it")
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # What it says is in our errors.
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            page = file.pages.first
            _check(page)
            # One thread: tf.data and Beam read several files at once.
            image = page.asarray(maxworkers=1)
            if page.axes[:1] == "S":
                image = np.moveaxis(image, 0, -1)
            image = image.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)
            return _upright(image, page.tags.valueof(_ORIENTATION, 1))
    except _Refused:
        raise
    # Its parser raises many types for files from strangers.
    except Exception as error:
        raise ValueError(f"tifffile cannot decode it: {error or type(error).__name__}") from error


class _Refused(ValueError):
    """A file that is intact but not read."""


def _check(page) -> None:
    """Raises `_Refused` before pixels that are too many or of another kind are unpacked."""
    if page.bitspersample not in (8, 16) or page.dtype not in (np.uint8, np.uint16):
        raise _Refused("its pixels are no whole numbers of 8 or 16 bits; give such")
    size = page.dtype.itemsize
    values = page.imagelength * page.imagewidth * page.imagedepth * page.samplesperpixel
    if values * size > _MAX_BYTES:
        raise _Refused(f"it has more than the {_MAX_BYTES} bytes of pixels that are read")
    if page.imagedepth != 1 or page.compression not in _COMPRESSIONS:
        raise _Refused("it is a volume, or compressed by another way than LZW and Deflate")
    parts = math.prod(page.chunked)
    if len(page.dataoffsets) > parts or parts * math.prod(page.chunks) * size > _MAX_PARTS:
        raise _Refused("its tiles are much larger than the image; save it without tiles")


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Returns an image stored with an EXIF orientation as it is to be shown."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image

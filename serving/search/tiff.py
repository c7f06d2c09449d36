"""TIFF files of any number of bands, 8 or 16 bits, read by tifffile.

The same as in training (byol_tf.images.tiff), which serving does not import; a test holds the two
against each other.
"""

import io
import logging
import math

import numpy as np

MAX_PIXELS = 2**26  # As many as an exported encoder takes.

# By their numbers in the file: none, LZW, Deflate (two), PackBits, Zstandard. Their decoders stop
# at the size that a part of the image has; others could unpack to anything.
_COMPRESSIONS = (1, 5, 8, 32946, 32773, 50000)
# Tiles reach over the border; all parts together are not much larger than the image.
_MAX_PARTS = 4 * MAX_PIXELS


def read(content: bytes, channels: int) -> np.ndarray:
    """Returns the bands of a TIFF file, upright.

    They are the samples of its first page, or, of grey pages, so many pages of equal size. To three
    channels, grey is repeated and alpha is dropped.

    Args:
        content: Content of the file.
        channels: C, the number that is wanted.

    Returns:
        uint8 or uint16 `[H, W, C]`.

    Raises:
        ValueError: The image is not complete, too large, of another number of bands, or of a kind
            that is not read; the message is a reason for a list of corrupt images.
    """
    try:
        import imagecodecs  # noqa: F401  # tifffile's own decoders have no limit.
        import tifffile
    except ImportError as error:
        raise ValueError(
            "it is a TIFF that Pillow does not read; pip install 'byol_tf[tiff]' to read it"
        ) from error
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # What it says is in our errors.
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            page = file.pages.first
            samples = page.samplesperpixel
            if samples == 1 and channels != 3:
                image = _pages(file.pages, channels)
            elif samples == channels or (channels == 3 and _is_photo(page)):
                image = _bands(page, 1)
            else:
                raise ValueError(mismatch(samples, channels))
            orientation = page.tags.valueof(274, 1)
    except ValueError:
        raise
    # Its parser raises many types for files from strangers.
    except Exception as error:
        raise ValueError(f"tifffile cannot decode it: {error or type(error).__name__}") from error
    if channels == 3:
        image = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[..., :3]
    return _upright(image, orientation)


def samples_of(content: bytes) -> int | None:
    """Returns the number of bands that the first page of a TIFF file claims; None if unknown."""
    from PIL import TiffImagePlugin

    try:
        directory = TiffImagePlugin.ImageFileDirectory_v2(content[:8])
        file = io.BytesIO(content)
        file.seek(directory.next)
        directory.load(file)
        return int(directory.get(TiffImagePlugin.SAMPLESPERPIXEL, 1))
    except Exception:  # As of any decoder; the file has another error already.
        return None


def mismatch(found: int, channels: int) -> str:
    """Returns why a file of other bands is refused."""
    return (
        f"it has {found} band{'' if found == 1 else 's'}, not the {channels} that the model takes"
    )


def _pages(pages, channels: int) -> np.ndarray:
    """Returns grey pages as bands `[H, W, C]`."""
    count = 1
    while count <= channels and _has(pages, count):
        count += 1
    if count != channels:
        more = "more than " if count > channels else ""
        raise ValueError(mismatch(count, channels).replace("has ", f"has {more}", 1))
    planes = [_bands(page, channels) for page in pages[:channels]]
    return np.concatenate(planes, axis=2)


def _has(pages, index: int) -> bool:
    try:
        return pages[index] is not None
    except IndexError:
        return False


def _is_photo(page) -> bool:
    """Whether a page is grey, or RGB with alpha."""
    extra = page.extrasamples
    return page.samplesperpixel == 1 or (page.samplesperpixel == 4 and extra[:1] in [(1,), (2,)])


def _bands(page, times: int) -> np.ndarray:
    """Returns the samples of one page of `times` such, `[H, W, samples]`; checks its size."""
    samples = page.samplesperpixel
    if page.bitspersample not in (8, 16) or page.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"its pixels are of {page.bitspersample} bits or not whole numbers; give 8 or 16 bits"
        )
    if page.imagelength * page.imagewidth * samples * times > MAX_PIXELS:
        raise ValueError(f"it has more values than the {MAX_PIXELS} that are read")
    if page.imagedepth != 1 or page.compression not in _COMPRESSIONS:
        raise ValueError(
            f"it is a volume or compressed by {getattr(page.compression, 'name', 'an unknown way')}"
            ", which is not read; save it with Deflate or LZW"
        )
    parts = math.prod(page.chunked)
    if len(page.dataoffsets) > parts or parts * math.prod(page.chunks) > _MAX_PARTS:
        raise ValueError("its tiles are larger than the image; save it without tiles")
    # One thread: tf.data and Beam read several files at once.
    image = page.asarray(maxworkers=1)
    if page.axes[:1] == "S":
        image = np.moveaxis(image, 0, -1)
    return image.reshape(page.imagelength, page.imagewidth, samples)


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Returns an image stored with an EXIF orientation as it is to be shown."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image

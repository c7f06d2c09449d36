"""What an image file says of its pixels: the number of channels, and their bits."""

import io
import struct

_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # By color type; a palette holds RGB.
_BANDS = b"baND"  # See byol_tf.images.bands.
_SAMPLES, _BITS = 277, 258  # Tags of TIFF.


def kind_of(content: bytes, converted: bytes) -> str:
    """Returns the channels and bits of a file as it lies in the folder, not as it is decoded.

    Training decodes a folder of grey and coloured photos to one number of channels; here they stay
    apart, so that the statistics of the data show them.

    Args:
        content: Content of a file that can be decoded.
        converted: The same image in a format that TensorFlow decodes, for stacked bands.

    Returns:
        For example "3 channels, 8 bit"; of a TIFF whose bands are pages, all bands count.
    """
    channels, depth = _of_png(converted)
    if converted[37:41] != _BANDS and not content.startswith(b"\x89PNG"):
        channels, depth = _of_tiff(content) or _of_photo(content)
    return f"{channels} channel{'' if channels == 1 else 's'}, {depth} bit"


def _of_png(content: bytes) -> tuple[int, int]:
    if content[37:41] == _BANDS:
        (channels,) = struct.unpack(">I", content[41:45])
    else:
        channels = _PNG_CHANNELS.get(content[25], 0)
    return channels, max(content[24], 8)


def _of_tiff(content: bytes) -> tuple[int, int] | None:
    """Returns what the first page of a TIFF claims; None for another format."""
    if content[:2] not in (b"II", b"MM"):
        return None
    from PIL import TiffImagePlugin

    directory = TiffImagePlugin.ImageFileDirectory_v2(content[:8])
    file = io.BytesIO(content)
    file.seek(directory.next)
    directory.load(file)
    bits = directory.get(_BITS, 8)
    depth = max(bits) if isinstance(bits, tuple) else bits
    return int(directory.get(_SAMPLES, 1)), max(int(depth), 8)


def _of_photo(content: bytes) -> tuple[int, int]:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as opened:
        return 3 if opened.mode == "P" else len(opened.getbands()), 8

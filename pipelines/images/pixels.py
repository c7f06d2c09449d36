"""What an image file says of its pixels: the number of channels, and their bits."""

import io

from byol_tf.images import band_chunk

_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # By color type; a palette holds RGB.


def kind_of(content: bytes) -> str:
    """Returns the channels and bits of a file as it is stored, not as it is decoded.

    Training decodes a folder of grey and coloured photos to one number of channels; here they stay
    apart, so that the statistics of the data show them.

    Args:
        content: Content of a JPEG, PNG, BMP or GIF that can be decoded.

    Returns:
        For example "3 channels, 8 bit".
    """
    channels, depth = _of_png(content) if content.startswith(b"\x89PNG") else _of_photo(content)
    return f"{channels} channel{'' if channels == 1 else 's'}, {depth} bit"


def _of_png(content: bytes) -> tuple[int, int]:
    return band_chunk.number(content) or _PNG_CHANNELS[content[25]], max(content[24], 8)


def _of_photo(content: bytes) -> tuple[int, int]:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as opened:  # Reads the header only.
        return 3 if opened.mode == "P" else len(opened.getbands()), 8

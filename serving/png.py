"""PNG files of images with any number of channels and 8 or 16 bits, as exported encoders read them.

Pillow writes no colours of 16 bits, and a PNG has at most four channels. Of more, the bands lie one
below another in a grey PNG, and a chunk `baND` right after its header says how many there are.
"""

import struct
import zlib

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # By channels: grey, grey and alpha, RGB, RGBA.
_BANDS = b"baND"
_HEADER = len(_SIGNATURE) + 25  # Bytes before that chunk.
_UP = 2  # Filter: differences from the row above, which compress better.


def encode(image: np.ndarray) -> bytes:
    """Returns the PNG file of an image, uint8 or uint16 `[H, W, C]`."""
    channels = image.shape[2]
    stacked = channels not in _COLOR_TYPES
    if stacked:
        image = np.moveaxis(image, 2, 0).reshape(-1, image.shape[1], 1)
    height, width = image.shape[:2]
    depth = 8 * image.itemsize
    color_type = _COLOR_TYPES[image.shape[2]]
    rows = image.astype(image.dtype.newbyteorder(">")).reshape(height, -1).view(np.uint8)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = _UP
    filtered[:1, 1:] = rows[:1]
    filtered[1:, 1:] = rows[1:] - rows[:-1]
    return b"".join(
        [
            _SIGNATURE,
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)),
            _chunk(_BANDS, struct.pack(">I", channels)) if stacked else b"",
            _chunk(b"IDAT", zlib.compress(filtered.tobytes(), 1)),
            _chunk(b"IEND", b""),
        ]
    )


def bands(content: bytes) -> int:
    """Returns how many bands lie one below another in a PNG file; 0 of any other file."""
    chunk = content[_HEADER : _HEADER + 12]
    if not content.startswith(_SIGNATURE) or chunk[4:8] != _BANDS or len(chunk) < 12:
        return 0
    return struct.unpack(">I", chunk[8:])[0]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

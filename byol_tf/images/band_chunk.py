"""The chunk of a grey PNG that says how many bands lie one below another in it.

Free of TensorFlow, for pages made of thumbnails.
"""

import struct
import zlib

# By PNG's rules on names: ancillary, private, not to be copied by an editor that changes pixels.
NAME = b"baND"
HEADER = 33  # Bytes before it: the signature and the chunk IHDR.


def chunk(channels: int) -> bytes:
    """Returns the chunk that belongs after the first 33 bytes of a grey PNG of stacked bands."""
    content = NAME + struct.pack(">I", channels)
    return struct.pack(">I", 4) + content + struct.pack(">I", zlib.crc32(content))


def number(png: bytes) -> int:
    """Returns the bands that lie below one another in a PNG file; 0 of a plain one."""
    found = png[HEADER + 4 : HEADER + 8] == NAME
    return int.from_bytes(png[HEADER + 8 : HEADER + 12], "big") if found else 0

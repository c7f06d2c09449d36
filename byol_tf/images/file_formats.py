"""Image files by suffix, and the conversion of those that TensorFlow does not decode, by Pillow."""

import functools
import importlib.util
import io
import re

import numpy as np
import tensorflow as tf

from byol_tf.images import bands, tiff
from byol_tf.images.size_limit import MAX_PIXELS

TENSORFLOW_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
_PILLOW_SUFFIXES = (".webp", ".tif", ".tiff")
_HEIF_SUFFIXES = (".heic", ".heif")

# First bytes of WebP, TIFF and HEIC files. The suffix does not decide: browsers save WebP as .jpg.
_FOR_PILLOW = r"RIFF....WEBP|(II[*+]\x00|MM\x00[*+]).*|....ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)"
_HEAD_BYTES = 12


def is_for_pillow(content: bytes) -> bool:
    """Returns whether a file is one that `convert` takes, by its first bytes."""
    return bool(re.fullmatch(_FOR_PILLOW.encode(), content[:_HEAD_BYTES], re.DOTALL))


def decodable(content: tf.Tensor) -> tf.Tensor:
    """Returns an image file that TensorFlow decodes: WebP, TIFF and HEIC become BMP or PNG.

    For tf.data on this machine: Pillow runs in this process.

    Args:
        content: Content of the file, scalar string.

    Raises:
        tf.errors.InvalidArgumentError: `convert` failed; raised when run.
    """

    def converted(content: bytes | np.ndarray) -> tuple[bytes, str]:
        try:  # Outside of a graph the content comes as an array of one object.
            return convert(np.asarray(content, object).item(), "BMP"), ""
        except ValueError as error:
            return b"", str(error)

    def by_pillow() -> tf.Tensor:
        # If `convert` raised instead, TensorFlow would print the stack trace.
        file, problem = tf.numpy_function(converted, [content], [tf.string, tf.string])
        with tf.control_dependencies([tf.debugging.Assert(tf.equal(problem, ""), [problem])]):
            return tf.ensure_shape(tf.identity(file), [])

    head = tf.strings.substr(content, 0, _HEAD_BYTES)
    pattern = _FOR_PILLOW.replace(".", r"\C")  # Any byte; a dot would need UTF-8.
    return tf.cond(tf.strings.regex_full_match(head, pattern), by_pillow, lambda: content)


def suffixes() -> tuple[str, ...]:
    """Returns the suffixes of the images that are read here, in lower case.

    WebP and TIFF need Pillow, HEIC also pillow-heif.
    """
    found: tuple[str, ...] = TENSORFLOW_SUFFIXES
    if importlib.util.find_spec("PIL"):
        found += _PILLOW_SUFFIXES
        if importlib.util.find_spec("pillow_heif"):
            found += _HEIF_SUFFIXES
    return found


def package_for(suffix: str) -> str | None:
    """Returns what to install to read files of a suffix that are not read here, if anything."""
    if suffix in suffixes():
        return None
    if suffix in _PILLOW_SUFFIXES:
        return "pillow"
    return "byol_tf[heif]" if suffix in _HEIF_SUFFIXES else None


def convert(content: bytes, to: str) -> bytes:
    """Returns the first page or frame of a WebP, TIFF or HEIC file in another format.

    Its EXIF orientation is applied. It keeps its bands and, grey or in a TIFF, its 16 bits; of
    these, `preprocessing.decode_image` makes what a config asks for.

    Args:
        content: Content of the file.
        to: Lossless format of the result, which TensorFlow decodes: PNG, or BMP, which is faster to
            write and several times as large; what is not RGB is an uncompressed PNG then.

    Raises:
        ValueError: The image is not complete, too large, or of a kind that is not read; the message
            is a reason for a list of corrupt images.
    """
    # Here: byol_tf by itself needs no Pillow.
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ValueError("it is WebP, TIFF or HEIC; pip install pillow to read it") from error

    formats = ["WEBP", "TIFF", "HEIF"] if _registers_heif() else ["WEBP", "TIFF"]
    try:
        if tiff.is_beyond_pillow(content):
            return _as_png(tiff.read(content), to)
        with Image.open(io.BytesIO(content), formats=formats) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ValueError(f"it has more pixels than the {MAX_PIXELS} that are read")
            image = ImageOps.exif_transpose(opened)
        if image.mode in ("I", "F"):
            raise ValueError("its pixels have 32 bits; give 8 or 16")
        if image.mode.startswith("I;16"):
            return _as_png(np.asarray(image).astype(np.uint16), to)
        if image.mode in ("1", "RGBa", "La"):
            image = image.convert({"1": "L", "RGBa": "RGBA", "La": "LA"}[image.mode])
        if image.mode in ("L", "LA", "RGBA", "RGBX"):
            return _as_png(np.asarray(image), to)
        written = io.BytesIO()
        image.convert("RGB").save(written, to)
    except ValueError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ValueError("not a WebP, TIFF or HEIC file that Pillow reads") from error
    # Pillow's decoders raise many types, SyntaxError among them, for files from strangers.
    except Exception as error:
        raise ValueError(f"Pillow cannot decode it: {error or type(error).__name__}") from error
    return written.getvalue()


def _as_png(pixels: np.ndarray, to: str) -> bytes:
    """Returns pixels `[H, W]` or `[H, W, C]` as a PNG of `bands.encode_png`."""
    compression = 0 if to == "BMP" else -1
    return bands.encode_png(tf.constant(np.atleast_3d(pixels)), compression).numpy()


@functools.cache
def _registers_heif() -> bool:
    """Teaches Pillow to read HEIC; returns whether pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True

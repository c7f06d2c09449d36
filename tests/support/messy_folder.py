"""Builds folders as people have them: links, pipes, hidden, foreign and broken files."""

import dataclasses
import importlib.util
import os
import pathlib

import numpy as np
from pictures import FORMATS, encoded, photo, png_claiming
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a folder holds, as paths below it.

    Attributes:
        images: Complete images that every command reads.
        corrupt: Files with an image's suffix that no command can decode.
        skipped: Broken links, pipes and links to pipes.
        other: Files of other kinds, which are counted by suffix.
    """

    images: set[str]
    corrupt: set[str]
    skipped: set[str]
    other: set[str]


def tangle(folder: pathlib.Path) -> Facts:
    """Makes a small folder of links of all sorts, a pipe, hidden and foreign files; no decoding."""
    image = encoded(Image.fromarray(photo(12, 16)), "JPEG")
    for name in ("top.jpg", "a/1.jpg", "b/2.jpg", ".hidden.jpg", "a/.cache/3.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image)
    for name in ("a/raw.CR2", "b/raw.cr2", "notes.txt", "a/.DS_Store"):
        (folder / name).write_bytes(b"nothing to decode")
    (folder / "a" / "b").symlink_to(folder / "b")  # Linked to each other.
    (folder / "b" / "a").symlink_to(folder / "a")
    (folder / "b" / "up").symlink_to("..")
    (folder / "again.png").symlink_to(folder / "top.jpg")
    (folder / "broken.jpg").symlink_to("nowhere.jpg")
    (folder / "class").symlink_to("an unmounted disk")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "to_pipe.jpg").symlink_to("pipe.jpg")
    return Facts(
        images={"top.jpg", "again.png", "a/1.jpg", "b/2.jpg"},
        corrupt=set(),
        skipped={"broken.jpg", "class", "loop.jpg", "pipe.jpg", "to_pipe.jpg"},
        other={"a/raw.CR2", "b/raw.cr2", "notes.txt"},
    )


def build(folder: pathlib.Path, images: pathlib.Path) -> Facts:
    """Makes a messy folder of class subfolders from the JPEG files below `images`.

    Args:
        folder: Folder to make.
        images: Folder whose subfolders are classes, such as examples/images/train.
    """
    facts = tangle(folder / "tangle")
    found = {f"tangle/{path}" for path in facts.images}
    for number, source in enumerate(sorted(images.glob("*/*.jpg"))):
        name = f"{source.parent.name}/{source.name}"
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(source.read_bytes())
        found.add(name)
        if number == 0:
            found.add(f"{source.parent.name}/duplicate.jpg")
            (folder / source.parent.name / "duplicate.jpg").write_bytes(source.read_bytes())
    contents = _formats()
    contents |= {
        "formats/with spaces & Ünïcode 写真.jpg": contents["formats/jpeg.jpg"],
        "formats/latin \udcfc.jpg": contents["formats/jpeg.jpg"],  # Not UTF-8.
        "formats/webp.jpg": contents["formats/webp.webp"],  # As browsers save it.
    }
    whole = contents["formats/jpeg.jpg"]
    corrupt = {
        "broken/cut.jpg": whole[: len(whole) // 2],
        "broken/cut.webp": contents["formats/webp.webp"][:200],
        "broken/empty.jpg": b"",
        "broken/text.jpg": b"No image at all.\n",
        "broken/huge.png": png_claiming(60000, 60000),
    }
    other = {"other/raw.cr2": b"II*\0", "other/film.mov": b"\0\0\0\x14ftypqt  ", "Thumbs.db": b""}
    heic = {} if "formats/heic.heic" in contents else {"other/photo.heic": b"\0\0\0\x18ftypheic"}
    for name, content in (contents | corrupt | other | heic).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return Facts(
        images=found | contents.keys(),
        corrupt=set(corrupt),
        skipped={f"tangle/{path}" for path in facts.skipped},
        other={f"tangle/{path}" for path in facts.other} | other.keys() | heic.keys(),
    )


def _formats() -> dict[str, bytes]:
    """Returns one image file of each kind by its path."""
    image = Image.fromarray(photo(40, 48))
    deep = (np.asarray(image.convert("L")).astype(np.uint16) << 8) | 0x55
    turned = Image.Exif()
    turned[0x0112] = 6
    files = {
        f"{name}.{'jpg' if kind == 'JPEG' else kind.lower()}": encoded(
            image.convert(mode), kind, **options
        )
        for name, (mode, kind, options) in FORMATS.items()
    } | {
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG"),
        "turned.jpg": encoded(image, "JPEG", exif=turned),
        "deep.png": encoded(Image.fromarray(deep), "PNG"),
        "animated.gif": encoded(image, "GIF", save_all=True, append_images=[image.rotate(180)]),
        "webp.webp": encoded(image, "WEBP"),
        "tiff.tif": encoded(image, "TIFF", compression="tiff_lzw"),
        "deep.tiff": encoded(Image.fromarray(deep), "TIFF"),
    }
    if importlib.util.find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
        files["heic.heic"] = encoded(image, "HEIF")
    return {f"formats/{name}": content for name, content in files.items()}

"""Builds folders as people have them: links, pipes, hidden, foreign and broken files."""

import dataclasses
import os
import pathlib

from pictures import encoded, photo
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

"""Image files that a command line names by folders, patterns or paths."""

import glob
import os
import re
from collections.abc import Iterable, Iterator

from absl import logging

from serving.errors import UserError
from serving.search.file_formats import suffixes
from serving.search.walk import (
    Unread,
    files_below,
    folders_below,
    is_linked_above,
    unreadable_reason,
)


def find(arguments: Iterable[str]) -> list[str]:
    """Returns the image files that the arguments name, each once, by argument and then by name.

    What is not read is counted in the log.

    Args:
        arguments: Folders, patterns and files. A folder stands for the images that training would
            find below it (`images_below`), a pattern with `*`, `?`, `[` or `**` for what it
            matches, anything else for itself.

    Raises:
        UserError: An argument names no file, or a folder cannot be read.
    """
    found: dict[str, None] = {}
    unread = Unread()
    for argument in arguments:
        files = sorted(_expand(argument, unread))
        if not files:
            told = " ".join(unread.sentences())
            raise UserError(
                f"'{argument}' names no image; give folders with images, patterns or image files."
                f"{f' {told}' if told else ''}"
            )
        found.update(dict.fromkeys(files))
    for sentence in unread.sentences():
        logging.warning("%s", sentence)
    return list(found)


def _expand(argument: str, unread: Unread) -> Iterator[str]:
    if os.path.isdir(argument):
        yield from images_below(argument, unread)
    elif os.path.lexists(argument):
        yield from _regular([argument], unread)
    elif glob.has_magic(argument):
        for path in _matches(argument):
            if not os.path.isdir(path):
                yield from _regular([path], unread)
            elif not is_linked_above(path):
                yield from images_below(path, unread)


def _regular(paths: Iterable[str], unread: Unread) -> Iterator[str]:
    """Yields the paths of files that can be read."""
    for path in paths:
        reason = unreadable_reason(path)
        if reason:
            unread.skip(path, reason)
        else:
            yield path


def _matches(pattern: str) -> Iterator[str]:
    """Yields what a pattern matches; unlike glob's, its `**` visits each folder once."""
    head, *tail = re.split(r"(?<![^/])\*\*/", pattern, maxsplit=1)
    if not tail:
        yield from glob.iglob(pattern)
        return
    for start in glob.iglob(head) if head else ["./"]:
        for folder, _ in folders_below(start, Unread()):
            inside = os.path.join(glob.escape(folder), tail[0])
            yield from _matches(inside if head else inside.removeprefix("./"))


def images_below(folder: str, unread: Unread | None = None) -> Iterator[str]:
    """Yields the images below a folder, by suffix: JPEG, PNG, BMP, GIF, WebP, TIFF, HEIC.

    The same files as byol_tf's training finds, see `walk.files_below`.

    Args:
        folder: Folder to search.
        unread: Record that gets what is not read.

    Raises:
        UserError: A folder cannot be read.
    """
    unread = Unread() if unread is None else unread
    for path in files_below(folder, unread):
        if path.lower().endswith(suffixes()):
            yield path
        else:
            unread.other_kind(path)


def key(path: str) -> str:
    """Returns the path as Unicode text; bytes of a name that are not UTF-8 are escaped."""
    return os.fsencode(path).decode(errors="backslashreplace")

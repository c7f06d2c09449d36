"""Folders, globs and files of a command line → image files."""

import glob
import os
from collections.abc import Iterable, Iterator

from serving.errors import UserError

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")


def find(arguments: Iterable[str]) -> list[str]:
    """The image files that the arguments name, each once, by argument and then by name.

    Args:
        arguments: a folder stands for all images below it (by suffix: JPEG, PNG, BMP, GIF), a
            pattern with `*`, `?`, `[` or `**` for what it matches, anything else for itself.

    Raises:
        UserError: an argument names nothing.
    """
    found: dict[str, None] = {}
    for argument in arguments:
        files = sorted(_expand(argument))
        if not files:
            raise UserError(
                f"'{argument}' names no image; give folders with images, patterns or image files."
            )
        found.update(dict.fromkeys(files))
    return list(found)


def _expand(argument: str) -> Iterator[str]:
    if os.path.isdir(argument):
        for folder, _, names in os.walk(argument, followlinks=True):
            yield from (
                os.path.join(folder, name) for name in names if name.lower().endswith(_SUFFIXES)
            )
    elif os.path.exists(argument):
        yield argument
    elif glob.has_magic(argument):
        for path in glob.iglob(argument, recursive=True):
            yield from _expand(path) if os.path.isdir(path) else [path]


def key(path: str) -> str:
    """The path as Unicode, which a file's name need not be."""
    return os.fsencode(path).decode(errors="backslashreplace")

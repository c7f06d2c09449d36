"""Image files that a command line names by folders, patterns or paths."""

import glob
import os
import re
from collections.abc import Iterable, Iterator

from serving.errors import UserError

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")


def find(arguments: Iterable[str]) -> list[str]:
    """Returns the image files that the arguments name, each once, by argument and then by name.

    Args:
        arguments: Folders, patterns and files. A folder stands for the images that training would
            find below it (`images_below`), a pattern with `*`, `?`, `[` or `**` for what it
            matches, anything else for itself.

    Raises:
        UserError: An argument names no file, or a folder cannot be read.
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
        yield from images_below(argument)
    elif os.path.exists(argument):
        yield argument
    elif glob.has_magic(argument):
        root = argument
        while glob.has_magic(root):
            root = os.path.dirname(root)
        for path in _matches(argument):
            if not os.path.isdir(path):
                yield path
            elif not _is_circular(path, root):
                yield from images_below(path, root)


def _matches(pattern: str) -> Iterator[str]:
    """Yields what a pattern matches; unlike glob's, its `**` does not follow circular links."""
    head, *tail = re.split(r"(?<![^/])\*\*/", pattern, maxsplit=1)
    if not tail:
        yield from glob.iglob(pattern)
        return
    for start in glob.iglob(head) if head else ["./"]:
        for folder, _ in _walk(start, start):
            inside = os.path.join(glob.escape(folder), tail[0])
            yield from _matches(inside if head else inside.removeprefix("./"))


def images_below(folder: str, root: str | None = None) -> Iterator[str]:
    """Yields the images below a folder, by suffix: JPEG, PNG, BMP, GIF.

    The same files as byol_tf's training finds: links are followed, but not a link to a folder that
    contains the link; hidden files and folders are left out.

    Args:
        folder: Folder to search.
        root: Folder above it from which on links may be circular; by default the folder itself.

    Raises:
        UserError: A folder cannot be read.
    """
    for parent, names in _walk(folder, folder if root is None else root):
        for name in names:
            if name.lower().endswith(_SUFFIXES):
                yield os.path.join(parent, name)


def _walk(folder: str, root: str) -> Iterator[tuple[str, list[str]]]:
    """Yields each folder with the names of its files."""

    def fail(error: OSError) -> None:
        raise UserError(
            f"the folder '{error.filename}' cannot be read ({error.strerror}); correct its "
            "permissions or the path."
        ) from error

    for parent, subfolders, names in os.walk(folder, onerror=fail, followlinks=True):
        subfolders[:] = [
            name
            for name in subfolders
            if not name.startswith(".") and not _is_circular(os.path.join(parent, name), root)
        ]
        yield parent, [name for name in names if not name.startswith(".")]


def _is_circular(path: str, root: str) -> bool:
    """Returns whether `path` is a link to a folder on the way from `root` down to it."""
    if not os.path.islink(path):
        return False
    target, parent = os.path.realpath(path), path
    while len(parent) > len(root):
        parent = os.path.dirname(parent)
        if os.path.realpath(parent) == target:
            return True
    return False


def key(path: str) -> str:
    """Returns the path as Unicode text; bytes of a name that are not UTF-8 are escaped."""
    return os.fsencode(path).decode(errors="backslashreplace")

"""Image files that a command line names by folders, patterns or paths."""

import glob
import os
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
        folder = argument
        while glob.has_magic(folder):
            folder = os.path.dirname(folder)
        for path in glob.iglob(argument, recursive=True):
            if not _passes_a_circle(path, folder):  # `**` follows all links.
                yield from images_below(path) if os.path.isdir(path) else [path]


def images_below(folder: str) -> Iterator[str]:
    """Yields the images below a folder, by suffix: JPEG, PNG, BMP, GIF.

    The same files as byol_tf's training finds: links are followed, but not a link to a folder that
    contains the link; hidden files and folders are left out.

    Raises:
        UserError: A folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise UserError(
            f"the folder '{error.filename}' cannot be read ({error.strerror}); correct its "
            "permissions or the path."
        ) from error

    for parent, subfolders, names in os.walk(folder, onerror=fail, followlinks=True):
        subfolders[:] = [
            name
            for name in subfolders
            if not name.startswith(".") and not _is_circular(os.path.join(parent, name), folder)
        ]
        for name in names:
            if not name.startswith(".") and name.lower().endswith(_SUFFIXES):
                yield os.path.join(parent, name)


def _is_circular(path: str, folder: str) -> bool:
    """Returns whether `path`, below `folder`, is a link to a folder on the way down to it."""
    if not os.path.islink(path):
        return False
    target, parent = os.path.realpath(path), path
    while len(parent) > len(folder):
        parent = os.path.dirname(parent)
        if os.path.realpath(parent) == target:
            return True
    return False


def _passes_a_circle(path: str, folder: str) -> bool:
    while len(path) > len(folder):
        if _is_circular(path, folder):
            return True
        path = os.path.dirname(path)
    return False


def key(path: str) -> str:
    """Returns the path as Unicode text; bytes of a name that are not UTF-8 are escaped."""
    return os.fsencode(path).decode(errors="backslashreplace")

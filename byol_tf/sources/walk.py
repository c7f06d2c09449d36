"""The files below a local folder: links followed, hidden ones left out."""

import os
from collections.abc import Iterator

from byol_tf.errors import UserError


def files_below(folder: str) -> Iterator[str]:
    """Paths relative to `folder`, folder by folder.

    A link to a folder that it lies in is not followed, for it would lead round in circles.

    Raises:
        UserError: a folder cannot be read.
    """

    def fail(error):
        raise UserError(
            f"the folder '{error.filename}' cannot be read ({error.strerror}); mend its "
            "permissions or correct the path."
        ) from error

    for parent, subfolders, names in os.walk(folder, onerror=fail, followlinks=True):
        subfolders[:] = [
            name
            for name in subfolders
            if not name.startswith(".") and not _circular(os.path.join(parent, name), folder)
        ]
        relative = os.path.relpath(parent, folder)
        for name in names:
            if not name.startswith("."):
                yield os.path.normpath(os.path.join(relative, name))


def _circular(path: str, folder: str) -> bool:
    """Whether `path`, somewhere below `folder`, is a link to a folder that it lies in."""
    if not os.path.islink(path):
        return False
    parent, target = path, os.path.realpath(path)
    while len(parent) > len(folder):
        parent = os.path.dirname(parent)
        if os.path.realpath(parent) == target:
            return True
    return False

"""A walk over the files below a local folder that follows links and skips hidden files."""

import os
from collections.abc import Iterator

from byol_tf.errors import UserError


def files_below(folder: str) -> Iterator[str]:
    """Yields the paths of files relative to `folder`, folder by folder.

    Files and folders whose names start with a dot are skipped. Links are followed, except a link to
    a folder that contains it, which would never end.

    Raises:
        UserError: A folder cannot be read.
    """

    def fail(error):
        raise UserError(
            f"the folder '{error.filename}' cannot be read ({error.strerror}); correct its "
            "permissions or the path."
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
    """Returns whether `path`, somewhere below `folder`, links to a folder that contains it."""
    if not os.path.islink(path):
        return False
    parent, target = path, os.path.realpath(path)
    while len(parent) > len(folder):
        parent = os.path.dirname(parent)
        if os.path.realpath(parent) == target:
            return True
    return False

"""A walk over the regular files below a local folder: each real folder once, nothing hidden."""

import collections
import os
import stat
from collections.abc import Iterator

from byol_tf.errors import UserError
from byol_tf.sources.unread import Unread

# 512 MiB. A file is read whole; the largest image that is taken (images.size_limit) has 403 MB as
# an uncompressed TIFF of three 16-bit channels.
MAX_FILE_BYTES = 1 << 29


def files_below(folder: str, unread: Unread | None = None) -> Iterator[tuple[str, os.stat_result]]:
    """Yields the regular files below `folder`: the path relative to it, and the file's status.

    Files and folders whose names start with a dot are skipped. Links are followed, but no folder is
    visited twice, nor one that contains `folder`; of several paths to a folder, one without links
    is taken, or else the first by depth and name.

    Args:
        folder: Folder to walk over.
        unread: Record that gets broken links, files that are not regular (pipes, sockets, devices;
            opening one may never return) and those larger than `MAX_FILE_BYTES`.

    Raises:
        UserError: A folder cannot be read.
    """
    unread = Unread() if unread is None else unread
    visited = _above(folder) if os.path.isdir(folder) else set()
    if visited and _identity(folder) in visited:  # It is named by a link to a folder above it.
        visited = _above(os.path.realpath(folder))
    linked = collections.deque([""])  # Links wait until all folders without links are visited.
    while linked:
        waiting = collections.deque([linked.popleft()])
        while waiting:
            parent = waiting.popleft()
            for entry in _new_entries(os.path.join(folder, parent) if parent else folder, visited):
                path = os.path.join(parent, entry.name)
                try:
                    status = entry.stat()
                except OSError:
                    unread.skip(path, "broken link")
                    continue
                if stat.S_ISDIR(status.st_mode):
                    (linked if entry.is_symlink() else waiting).append(path)
                elif not stat.S_ISREG(status.st_mode):
                    unread.skip(path, "pipe, socket or device")
                elif status.st_size > MAX_FILE_BYTES:
                    unread.skip(path, f"file larger than {MAX_FILE_BYTES >> 20} MiB")
                else:
                    yield path, status


def _new_entries(folder: str, visited: set[tuple[int, int]]) -> list[os.DirEntry]:
    """Returns what is not hidden in a folder, by name; nothing if the folder has been visited."""
    try:
        identity = _identity(folder)
        if identity in visited:
            return []
        visited.add(identity)
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(
            f"the folder '{folder}' cannot be read ({error.strerror}); correct its permissions or "
            "the path."
        ) from error
    return sorted(shown, key=lambda entry: entry.name)


def _above(folder: str) -> set[tuple[int, int]]:
    """Returns the identities of the folders that contain `folder`, or a link on the way to it."""
    above = set()
    for parent in (os.path.realpath(folder), os.path.abspath(folder)):
        while parent != os.path.dirname(parent):
            parent = os.path.dirname(parent)
            above.add(_identity(parent))
    return above


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino

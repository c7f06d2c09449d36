"""A walk over regular files, as byol_tf's training does it, and a record of what is not read."""

import collections
import os
import stat
from collections.abc import Iterator

from serving.errors import UserError
from serving.search.file_formats import suffixes

# 512 MiB, as in training: a file is read whole.
MAX_FILE_BYTES = 1 << 29
_LONGEST_SUFFIX = 8  # Longer ones are parts of names, not suffixes.
_KINDS_NAMED = 8


def files_below(folder: str, unread: "Unread") -> Iterator[str]:
    """Yields the paths of the regular files below `folder`.

    Hidden files and folders are skipped. Links are followed, but no folder is visited twice, nor
    one that contains `folder`; of several paths to a folder, one without links is taken, or else
    the first by depth and name.

    Args:
        folder: Folder to walk over.
        unread: Record that gets broken links, pipes and the like, and files that are too large.

    Raises:
        UserError: A folder cannot be read.
    """
    for _, files in folders_below(folder, unread):
        yield from files


def folders_below(folder: str, unread: "Unread") -> Iterator[tuple[str, list[str]]]:
    """Yields `folder` and those below it with the paths of their files; see `files_below`."""
    visited = _above(folder) if os.path.isdir(folder) else set()
    if visited and _identity(folder) in visited:  # It is named by a link to a folder above it.
        visited = _above(os.path.realpath(folder))
    linked = collections.deque([folder])  # Links wait until all folders without links are visited.
    while linked:
        waiting = collections.deque([linked.popleft()])
        while waiting:
            parent = waiting.popleft()
            files: list[str] = []
            entries = _new_entries(parent, visited)
            if entries is None:
                continue
            for entry in entries:
                path = os.path.join(parent, entry.name)
                if os.path.isdir(path):
                    (linked if entry.is_symlink() else waiting).append(path)
                elif reason := unreadable_reason(path):
                    unread.skip(path, reason)
                else:
                    files.append(path)
            yield parent, files


def unreadable_reason(path: str) -> str | None:
    """Returns what a path is, as a noun, if it cannot be read as a file, else None."""
    try:
        status = os.stat(path)
    except OSError:
        return "broken link"
    if not stat.S_ISREG(status.st_mode):
        return "pipe, socket or device"
    if status.st_size > MAX_FILE_BYTES:
        return f"file larger than {MAX_FILE_BYTES >> 20} MiB"
    return None


def is_linked_above(folder: str) -> bool:
    """Returns whether a folder is a link to one that contains it."""
    return _identity(folder) in _above(folder)


def _new_entries(folder: str, visited: set[tuple[int, int]]) -> list[os.DirEntry] | None:
    """Returns what is not hidden in a folder, by name, or None if the folder has been visited."""
    try:
        identity = _identity(folder)
        if identity in visited:
            return None
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


class Unread:
    """Entries that cannot be read as files, and files of other kinds; hidden ones do not count."""

    def __init__(self) -> None:
        self._skipped: dict[str, str] = {}  # By path: two listings may come by the same entry.
        self._kinds: collections.Counter[str] = collections.Counter()

    def skip(self, path: str, reason: str) -> None:
        """Records an entry that cannot be read as a file; the reason is a noun."""
        self._skipped[path] = reason

    def other_kind(self, path: str) -> None:
        """Records a file whose suffix is of no format that is read."""
        suffix = os.path.splitext(path)[1].lower()
        usual = suffix[1:].isalnum() and len(suffix) <= _LONGEST_SUFFIX
        self._kinds[suffix if usual else "without a suffix"] += 1

    def sentences(self) -> list[str]:
        """Returns at most one sentence about the entries and one about the files of other kinds.

        Such as "2 entries are skipped: 1 broken link, 1 pipe, socket or device (such as a.jpg)."
        and "12 files of other kinds not read: 8 .cr2, 4 .mov."
        """
        told = []
        if self._skipped:
            number = len(self._skipped)
            reasons = collections.Counter(self._skipped.values()).most_common()
            told.append(
                f"{number} {'entry is' if number == 1 else 'entries are'} skipped: "
                f"{', '.join(f'{count} {reason}' for reason, count in reasons)} (such as "
                f"{printable(min(self._skipped))})."
            )
        if self._kinds:
            number = self._kinds.total()
            named = self._kinds.most_common(_KINDS_NAMED)
            kinds = [f"{count} {kind}" for kind, count in named]
            others = number - sum(count for _, count in named)
            kinds += [f"{others} others"] if others else []
            heif = {".heic", ".heif"} & self._kinds.keys() - {*suffixes()}
            hint = "; pip install 'byol_tf[heif]' to read more" if heif else ""
            told.append(
                f"{number} {'file' if number == 1 else 'files'} of other kinds not read: "
                f"{', '.join(kinds)}{hint}."
            )
        return told


def printable(name: str) -> str:
    """Returns a file name, which may be invalid Unicode, as printable text on one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)

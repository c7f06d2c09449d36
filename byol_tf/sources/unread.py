"""A record of what lies below a folder and is not read, told in sentences."""

import collections
import os

from byol_tf.images.file_formats import package_for

_LONGEST_SUFFIX = 8  # Longer ones are parts of names, not suffixes.
_KINDS_NAMED = 8


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
            packages = sorted(filter(None, {package_for(kind) for kind in self._kinds}))
            hint = f"; pip install {' '.join(map(repr, packages))} to read more" if packages else ""
            told.append(
                f"{number} {'file' if number == 1 else 'files'} of other kinds not read: "
                f"{', '.join(kinds)}{hint}."
            )
        return told


def printable(name: str) -> str:
    """Returns a file name, which may be invalid Unicode, as printable text on one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)

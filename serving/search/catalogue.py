"""What a run of byol-embed knows of each image, by key: on disk, so that memory stays bounded."""

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator

import numpy as np

from serving.errors import UserError
from serving.search import image_files

# Keys, paths of files and whether an embedding of an earlier state is known.
Image = tuple[str, str, bool]
_ROWS_AT_ONCE = 8192
_TABLES = """
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA cache_size = -65536;
    CREATE TABLE known (
        key TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, file INTEGER
    ) WITHOUT ROWID;
    CREATE TABLE waiting (number INTEGER PRIMARY KEY, key TEXT, path BLOB, changed INTEGER);
    BEGIN;
"""


class Catalogue:
    """The file of embeddings that holds each image's newest one, and the images that wait for one.

    A temporary SQLite database: it is made from the files of embeddings, and is of no use after a
    kill.

    Args:
        path: Path of the database; what is there is replaced.

    Raises:
        UserError: The database cannot be written.
    """

    def __init__(self, path: str):
        self._path = path
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
        with self._writing():
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.executescript(_TABLES)

    def add(self, keys: Iterable[str], stats: np.ndarray, file: int) -> None:
        """Records embeddings of a file; one of the same state in an earlier file stays the newest.

        Args:
            keys: N keys.
            stats: Size and modification time of the images, int64 `[N, 2]`.
            file: Number of the file.
        """
        rows = ((key, *stat, file) for key, stat in zip(keys, stats.tolist(), strict=True))
        with self._writing():
            self._database.executemany(
                "INSERT INTO known VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                "size = excluded.size, mtime_ns = excluded.mtime_ns, file = excluded.file "
                "WHERE size != excluded.size OR mtime_ns != excluded.mtime_ns",
                rows,
            )

    def wait_for(self, paths: Iterable[str], first_new_file: int) -> int:
        """Lists the images of which no embedding of their state is known; returns their number.

        Args:
            paths: Paths of all images.
            first_new_file: The embeddings of files from this number on are of the same run.
        """

        def rows() -> Iterator[tuple]:
            for path in paths:
                key = image_files.key(path)
                found = self._database.execute(
                    "SELECT size, mtime_ns, file FROM known WHERE key = ?", [key]
                ).fetchone()
                if not found or found[:2] != stat(path):
                    yield key, os.fsencode(path), bool(found) and found[2] < first_new_file

        with self._writing():
            self._database.executemany(
                "INSERT INTO waiting (key, path, changed) VALUES (?, ?, ?)", rows()
            )
        (count,) = self._database.execute("SELECT COUNT(*) FROM waiting").fetchone()
        return count

    def waiting(self, size: int) -> Iterator[list[Image]]:
        """Yields batches of the images that wait, in the order in which they were listed."""
        last = 0
        while rows := self._database.execute(
            "SELECT * FROM waiting WHERE number > ? ORDER BY number LIMIT ?", [last, size]
        ).fetchall():
            last = rows[-1][0]
            yield [(key, os.fsdecode(path), bool(changed)) for _, key, path, changed in rows]

    def gone(self, paths: Iterable[str]) -> list[str]:
        """Returns the keys of images that do not exist any more, given the paths of all that do."""
        # Names that are not UTF-8 have a key that is not their path.
        escaped = {key for path in paths if (key := image_files.key(path)) != path}
        return [
            key
            for (key,) in self._database.execute("SELECT key FROM known")
            if not os.path.exists(key) and key not in escaped
        ]

    def drop(self, keys: Iterable[str]) -> None:
        """Forgets images, so that no embedding of them counts."""
        with self._writing():
            self._database.executemany("DELETE FROM known WHERE key = ?", [(key,) for key in keys])

    def move(self, keys: Iterable[str], file: int) -> None:
        """Records that the newest embeddings of images are in another file now."""
        with self._writing():
            self._database.executemany(
                "UPDATE known SET file = ? WHERE key = ?", [(file, key) for key in keys]
            )

    def counts(self) -> dict[int, int]:
        """Returns how many newest embeddings each file has, of those that have some."""
        return dict(self._database.execute("SELECT file, COUNT(*) FROM known GROUP BY file"))

    def newest(self, keys: list[str], file: int) -> np.ndarray:
        """Returns which embeddings of a file are their images' newest, bool `[N]`."""
        found = (
            self._database.execute("SELECT file FROM known WHERE key = ?", [key]).fetchone()
            for key in keys
        )
        return np.array([row == (file,) for row in found], bool)

    def close(self) -> None:
        """Removes the database."""
        self._database.close()
        with contextlib.suppress(FileNotFoundError):
            os.remove(self._path)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise UserError(
                f"cannot write '{self._path}' ({error}); free some space or give another --output."
            ) from error


def stat(path: str) -> tuple[int, int]:
    """Returns size in bytes and modification time in ns, or (-2, -2) if the file is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return -2, -2
    return status.st_size, status.st_mtime_ns

"""A folder of partitions of embeddings, of which only blocks and single rows are in memory."""

import hashlib
import os
from collections.abc import Collection, Iterator

import numpy as np
from tqdm import tqdm

from serving.errors import UserError
from serving.search import embeddings, partitions
from serving.search.parquet_rows import ParquetRows


class Corpus:
    """N embeddings of size D in a folder that byol-embed wrote.

    Args:
        folder: Path of the folder.

    Attributes:
        folder: Path of the folder.
        about: Origin of the embeddings, see `Embeddings`.
        size: D.
        starts: First row of each partition, and N, int64 `[P + 1]`.
        digest: SHA-256 of what identifies all partitions and their order, in hexadecimal.

    Raises:
        UserError: The folder holds no embeddings, or some of another size.
    """

    def __init__(self, folder: str):
        self.folder = folder
        self._parts: list[ParquetRows] = []
        for path in partitions.paths(folder):
            with embeddings.reading(path):
                part = ParquetRows(path)
                embeddings.checked_about(part.about)
                if self._parts and part.size != self._parts[0].size:
                    raise ValueError(f"it has embeddings of size {part.size}, not as the others")
                self._parts.append(part)
        if not self._parts:
            raise UserError(
                f"the folder '{folder}' does not hold embeddings; make it with byol-embed."
            )
        self.about = self._parts[0].about
        self.size = self._parts[0].size
        self.starts = np.cumsum([0, *map(len, self._parts)], dtype=np.int64)
        self.digest = hashlib.sha256(b"".join(part.identity for part in self._parts)).hexdigest()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def blocks(self, doing: str) -> Iterator[tuple[int, np.ndarray]]:
        """Yields all embeddings, float32 `[B, D]`, with the row of the first of each block."""
        with tqdm(total=len(self), desc=doing, unit=" images", unit_scale=True) as progress:
            for part in self._parts:
                with embeddings.reading(part.path):
                    for block in part.blocks():
                        yield progress.n, block
                        progress.update(len(block))

    def values(self, rows: np.ndarray) -> np.ndarray:
        """Returns the embeddings of rows, float32 `[R, D]`, read from the disk.

        Raises:
            UserError: One has NaN or infinity.
        """
        found = np.empty([len(rows), self.size], np.float32)
        places = self._by_part(rows)
        for number, chosen in places:
            self._parts[number].will_need(rows[chosen] - self.starts[number])
        for number, chosen in places:
            found[chosen] = self._parts[number].values(rows[chosen] - self.starts[number])
        if not np.isfinite(found).all():
            raise UserError(
                f"the folder '{self.folder}' has an embedding with NaN or infinity; make it again "
                "with byol-embed."
            )
        return found

    def _by_part(self, rows: np.ndarray) -> list[tuple[int, np.ndarray]]:
        numbers = np.searchsorted(self.starts, rows, "right") - 1
        return [(int(number), np.flatnonzero(numbers == number)) for number in np.unique(numbers)]

    def key(self, row: int) -> str:
        """Returns the key of a row."""
        number = int(np.searchsorted(self.starts, row, "right")) - 1
        with embeddings.reading(self._parts[number].path):
            return self._parts[number].key(row - int(self.starts[number]))

    def rows(self, keys: Collection[str]) -> dict[str, int]:
        """Returns the rows of those keys that the corpus has; it reads all keys, in blocks."""
        found: dict[str, int] = {}
        for part, start in zip(self._parts, self.starts.tolist(), strict=False):
            with embeddings.reading(part.path):
                found.update({key: start + row for key, row in part.rows(keys).items()})
        return found


def is_corpus(path: str) -> bool:
    """Returns whether embeddings are in a folder of partitions instead of a file."""
    return os.path.isdir(path) and bool(partitions.paths(path))

"""Rows of a Parquet file of embeddings, read in blocks or, by number, straight from the disk."""

import hashlib
import mmap
import os
from collections.abc import Collection, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serving.search import parquet_file

_FOOTER_END = 8  # Length of the footer, int32, and "PAR1".


class ParquetRows:
    """N embeddings of size D in a file that `parquet_file.write` wrote.

    Args:
        path: Path of the file.

    Attributes:
        path: Path of the file.
        about: Origin of the embeddings, see `Embeddings`.
        size: D.
        starts: First row of each row group, and N, int64 `[G + 1]`.
        offsets: Bytes in the file before the embeddings of each row group, int64 `[G]`.
        identity: SHA-256 of the file's size and its footer, which has the origin with a number of
            its own, the layout, and the least and greatest values.

    Raises:
        ValueError: The file holds no embeddings, or not as `parquet_file.write` lays them out.
    """

    def __init__(self, path: str):
        self.path = path
        with pq.ParquetFile(path) as file:
            parquet_file.checked_budget(file, path)
            self.about = parquet_file.about_of(file)
            groups = [file.metadata.row_group(n) for n in range(file.metadata.num_row_groups)]
        rows = [group.num_rows for group in groups]
        if not rows or min(rows) < 1:
            raise ValueError("it has no rows")
        self.starts = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])
        (column,) = {
            number
            for number in range(groups[0].num_columns)
            if groups[0].column(number).path_in_schema.startswith("embedding.")
        }
        chunks = [group.column(column) for group in groups]
        self.size = chunks[0].num_values // rows[0]
        offsets = []
        length = os.path.getsize(path)
        for chunk, count in zip(chunks, rows, strict=True):
            taken = 4 * chunk.num_values
            # One page: before the values are its header and their positions in the lists.
            offsets.append(chunk.data_page_offset + chunk.total_compressed_size - taken)
            if (
                chunk.num_values != count * self.size
                or not self.size
                or (chunk.physical_type, chunk.compression) != ("FLOAT", "UNCOMPRESSED")
                or chunk.has_dictionary_page
                or not 0 <= offsets[-1] <= length - taken
            ):
                raise ValueError("its embeddings are not laid out as byol-embed does")
        self.offsets = np.array(offsets, np.int64)
        with open(path, "rb") as opened:
            self._mapped = mmap.mmap(opened.fileno(), length, access=mmap.ACCESS_READ)
        self._mapped.madvise(mmap.MADV_RANDOM)
        self.identity = self._identity()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def _identity(self) -> bytes:
        length = int.from_bytes(self._mapped[-_FOOTER_END:][:4], "little")
        footer = self._mapped[-(length + _FOOTER_END) :]
        return hashlib.sha256(len(self._mapped).to_bytes(8, "little") + footer).digest()

    def rows(self, keys: Collection[str]) -> dict[str, int]:
        """Returns the rows of those keys that the file has; it reads all keys, in blocks."""
        wanted, found, row = pa.array(keys, pa.string()), {}, 0
        with pq.ParquetFile(self.path) as file:
            for (column,) in file.iter_batches(columns=["key"]):
                places = np.flatnonzero(pc.is_in(column, value_set=wanted.cast(column.type)))
                found.update({column[place].as_py(): row + place for place in places.tolist()})
                row += len(column)
        return found

    def key(self, row: int) -> str:
        """Returns the key of a row."""
        group = int(np.searchsorted(self.starts, row, "right")) - 1
        with pq.ParquetFile(self.path) as file:
            column = file.read_row_group(group, columns=["key"])["key"]
        (key,) = parquet_file.texts(column[row - int(self.starts[group]) :][:1])
        return key

    def blocks(self) -> Iterator[np.ndarray]:
        """Yields all embeddings, float32 `[B, D]`, and checks that `values` reads the same.

        Raises:
            ValueError: An embedding is damaged, or the layout is another.
        """
        done = 0
        with pq.ParquetFile(self.path) as file:
            for group in range(len(self.offsets)):
                for (column,) in file.iter_batches(row_groups=[group], columns=["embedding"]):
                    block = parquet_file.matrix(column)
                    if not np.isfinite(block).all():
                        raise ValueError("it has an embedding with NaN or infinity")
                    start = done - int(self.starts[group])
                    mapped = self._view(group, start, len(block))
                    if not np.array_equal(block, mapped):
                        raise ValueError("its embeddings are not laid out as byol-embed does")
                    done += len(block)
                    del mapped
                    yield block
                # What was compared stays in the kernel's cache, but not resident in this process.
                self._mapped.madvise(mmap.MADV_DONTNEED)

    def will_need(self, rows: np.ndarray) -> None:
        """Starts to read rows, all at the same time."""
        for offset in self._offsets_of(rows).tolist():
            start = offset - offset % mmap.PAGESIZE
            self._mapped.madvise(mmap.MADV_WILLNEED, start, offset + 4 * self.size - start)

    def values(self, rows: np.ndarray) -> np.ndarray:
        """Returns the embeddings of rows, float32 `[R, D]`."""
        found = np.empty([len(rows), self.size], np.float32)
        for place, offset in enumerate(self._offsets_of(rows).tolist()):
            found[place] = np.frombuffer(self._mapped, np.float32, self.size, offset)
        return found

    def _offsets_of(self, rows: np.ndarray) -> np.ndarray:
        groups = np.searchsorted(self.starts, rows, "right") - 1
        return self.offsets[groups] + 4 * self.size * (rows - self.starts[groups])

    def _view(self, group: int, start: int, count: int) -> np.ndarray:
        offset = int(self.offsets[group]) + 4 * self.size * start
        values = np.frombuffer(self._mapped, np.float32, count * self.size, offset)
        return values.reshape(count, self.size)

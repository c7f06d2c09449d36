"""The file of an approximate index: inverted lists of product-quantised vectors, memory-mapped.

Faiss searches the lists, but its parser never sees the file: the header names six numbers, from
which the length of each array and of the file follow, and a SHA-256 ends the file.
"""

import dataclasses
import hashlib
import os
import struct
from typing import Any, BinaryIO

import faiss
import numpy as np

_MAGIC = b"byolivf1"
_HEADER = struct.Struct("<8s7qd32s")
_DIGEST_BYTES = 32
_CENTROIDS = 256  # Of each sub-quantiser: a code is a byte.
_MOST = 1 << 40  # Of any number in a header.


@dataclasses.dataclass(frozen=True)
class Header:
    """Sizes of an index, and how it is searched.

    Attributes:
        size: D, size of the embeddings.
        reduced: d, their size after the rotation that keeps the directions of most variance.
        codes: M, bytes of a code.
        lists: L, number of inverted lists.
        count: N, number of embeddings.
        probes: Number of lists to search.
        candidates: Number of codes, of the nearest in these lists, to compare exactly, for ten
            neighbours.
        recall: Part of the ten nearest neighbours that was found, on average over queries.
        digest: SHA-256 that identifies the embeddings, in hexadecimal.
    """

    size: int
    reduced: int
    codes: int
    lists: int
    count: int
    probes: int
    candidates: int
    recall: float
    digest: str

    def pack(self) -> bytes:
        """Returns the header's bytes."""
        *numbers, digest = dataclasses.astuple(self)
        return _HEADER.pack(_MAGIC, *numbers, bytes.fromhex(digest))

    def shapes(self) -> dict[str, tuple[Any, tuple[int, ...]]]:
        """Returns types and shapes of the arrays between the header and the lists."""
        return {
            "rotation": (np.dtype("<f4"), (self.reduced, self.size)),
            "centroids": (np.dtype("<f4"), (self.lists, self.reduced)),
            "quantizers": (np.dtype("<f4"), (self.codes, _CENTROIDS, self.reduced // self.codes)),
            "sizes": (np.dtype("<i8"), (self.lists,)),
        }


def _read_header(content: memoryview) -> Header | None:
    magic, size, reduced, codes, lists, count, probes, candidates, recall, digest = _HEADER.unpack(
        content[: _HEADER.size]
    )
    numbers = (size, reduced, codes, lists, count, probes, candidates)
    header = Header(*numbers, recall, digest.hex())
    fits = (
        magic == _MAGIC
        and all(0 < number < _MOST for number in numbers)
        and header.reduced <= header.size
        and header.reduced % header.codes == 0
        and header.probes <= header.lists
        and 0 <= header.recall <= 1
    )
    return header if fits else None


def write(
    file: BinaryIO, header: Header, arrays: dict[str, np.ndarray], lists: np.ndarray, codes: Any
) -> None:
    """Writes an index, without its SHA-256.

    Args:
        file: File to write to.
        header: Header.
        arrays: The arrays that `Header.shapes` names, except for `sizes`.
        lists: Number of each embedding's list, `[N]`.
        codes: Codes, uint8 `[N, M]`; may be memory-mapped.
    """
    sizes = np.bincount(lists, minlength=header.lists)
    file.write(header.pack())
    for name, (kind, shape) in header.shapes().items():
        array = sizes if name == "sizes" else arrays[name]
        file.write(np.ascontiguousarray(array.reshape(shape), kind).tobytes())
    order = np.argsort(lists, kind="stable")
    for rows in np.split(order, np.cumsum(sizes)[:-1]):
        room = _rounded(len(rows)) - len(rows)
        file.write(codes[rows].tobytes() + bytes(room * header.codes))
        file.write(rows.astype("<i8").tobytes() + bytes(room * 8))


def sign(path: str) -> None:
    """Adds the SHA-256."""
    with open(path, "rb+") as file:
        file.write(hashlib.file_digest(file, "sha256").digest())


def set_header(path: str, header: Header) -> None:
    """Replaces the header of an index that is not signed yet."""
    with open(path, "rb+") as file:
        file.write(header.pack())


class Lists:
    """An index that is ready to search.

    Args:
        path: Path of the file.
        signed: Whether the file ends in its SHA-256, which is then checked.

    Attributes:
        header: The file's header.

    Raises:
        ValueError: The file is no such index, or damaged.
        OSError: The file cannot be read.
    """

    def __init__(self, path: str, signed: bool = True):
        tail = _DIGEST_BYTES if signed else 0
        if not os.path.isfile(path) or os.path.getsize(path) < _HEADER.size + tail:
            raise ValueError("it is too short")
        content = np.memmap(path, np.uint8, "r")
        header = _read_header(content.data)
        if header is None:
            raise ValueError("its header is of no index")
        self.header = header
        arrays, end = {}, _HEADER.size
        for name, (kind, shape) in header.shapes().items():
            start, end = end, end + int(np.prod(shape, dtype=object)) * kind.itemsize
            if end > len(content) - tail:
                raise ValueError("its header claims more than the file has")
            arrays[name] = content[start:end].view(kind).reshape(shape)
        sizes = arrays["sizes"]
        if (
            header.count * header.codes > len(content)  # So that nothing below can overflow.
            or sizes.min() < 0
            or sum(sizes.tolist()) != header.count
        ):
            raise ValueError("its lists do not have as many codes as its header says")
        rooms = _rounded(sizes) * (header.codes + 8)
        if end + int(rooms.sum()) + tail != len(content):
            raise ValueError("its size is not what its header says")
        if signed and hashlib.sha256(content[:-tail].data).digest() != bytes(content[-tail:]):
            raise ValueError("it is damaged")
        self._rotation = np.array(arrays["rotation"])
        self._ivf = _ivf(header, arrays)
        self._lists = _on_disk(path, header, sizes, end + np.cumsum(rooms) - rooms)
        self._ivf.replace_invlists(self._lists, False)

    def candidates(self, queries: np.ndarray, count: int, probes: int = 0) -> np.ndarray:
        """Returns rows whose codes are near to queries, the nearest first.

        Args:
            queries: Unit vectors, float32 `[Q, D]`.
            count: Number of rows.
            probes: Number of lists to search; 0 for that of the header.

        Returns:
            Rows, int64 `[Q, count]`; -1 where the lists have no more, or a row that cannot be.
        """
        self._ivf.nprobe = probes or self.header.probes
        rotated = np.ascontiguousarray(queries @ self._rotation.T)
        rows = self._ivf.search(rotated, count)[1]
        return np.where((rows >= 0) & (rows < self.header.count), rows, -1)


def _rounded(sizes: Any) -> Any:
    """Returns sizes as multiples of 8, so that the row numbers after codes are aligned."""
    return (sizes + 7) // 8 * 8


def _ivf(header: Header, arrays: dict[str, np.ndarray]) -> faiss.IndexIVFPQ:
    quantizer = faiss.IndexFlatL2(header.reduced)
    quantizer.add(np.array(arrays["centroids"]))
    ivf = faiss.IndexIVFPQ(
        quantizer, header.reduced, header.lists, header.codes, 8, faiss.METRIC_INNER_PRODUCT
    )
    faiss.copy_array_to_vector(np.array(arrays["quantizers"]).ravel(), ivf.pq.centroids)
    ivf.is_trained, ivf.ntotal = True, header.count
    return ivf


def _on_disk(
    path: str, header: Header, sizes: np.ndarray, offsets: np.ndarray
) -> faiss.OnDiskInvertedLists:
    lists = faiss.OnDiskInvertedLists()
    lists.nlist, lists.code_size = header.lists, header.codes
    lists.filename, lists.read_only = path, True
    lists.totsize = os.path.getsize(path)
    places: Any = lists.lists  # A vector of C++, not the list that its stub says.
    for size, offset in zip(sizes.tolist(), offsets.tolist(), strict=True):
        one = faiss.OnDiskOneList()
        one.size, one.capacity, one.offset = size, _rounded(size), offset
        places.push_back(one)
    lists.do_mmap()
    return lists

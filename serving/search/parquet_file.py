"""Parquet files of embeddings: the columns `key`, `embedding`, `size` and `mtime_ns`.

Files come from strangers: what they unpack to is bounded, and every value is checked.
"""

import itertools
import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from serving.search.embeddings import Embeddings
if hasattr(pa, "PyExtensionType") and not hasattr(pa.PyExtensionType, "set_auto_load"):
    # Before 14.0.1, pyarrow unpickles the extension types of a file that it reads, which runs code
    # (CVE-2023-47248).
    import pyarrow_hotfix  # noqa: F401

_METADATA = b"byol_tf"
_ROWS_AT_ONCE = 8192
_STATS = ("size", "mtime_ns")
_PAGE_BYTES = 1 << 30  # Half of what a page may have, and more than a row group has.
# Embeddings hardly compress, so a file that unpacks to far more than its size is an attack. Small
# files may unpack to this many bytes.
_ALWAYS_ALLOWED = 1 << 30
_MAX_RATIO = 100


def read(path: str) -> tuple[list[str], np.ndarray, np.ndarray, dict[str, Any]]:
    """Returns keys, embeddings float32 `[N, D]`, stats int64 `[N, 2]` and `about`.

    Raises:
        ValueError: The file does not hold embeddings; the message says why.
    """
    with pq.ParquetFile(path) as file:
        budget = checked_budget(file, path)
        keys = _keys(file, budget)
        return keys, _values(file, len(keys), budget), _stats(file, len(keys)), about_of(file)


def read_keys(path: str) -> tuple[list[str], int, np.ndarray, dict[str, Any]]:
    """Returns keys, D, stats int64 `[N, 2]` and `about`; decodes only the first embedding."""
    with pq.ParquetFile(path) as file:
        keys = _keys(file, checked_budget(file, path))
        ((first,),) = itertools.islice(file.iter_batches(1, columns=["embedding"]), 1)
        return keys, matrix(first).shape[1], _stats(file, len(keys)), about_of(file)


def checked_budget(file: pq.ParquetFile, path: str) -> int:
    """Checks types and claimed sizes; returns the bytes that the embeddings may unpack to."""
    schema = file.schema_arrow
    for name, is_right, what in (
        ("key", _is_text, "text"),
        ("embedding", _is_list_of_floats, "lists of floats"),
    ):
        if schema.names.count(name) != 1:
            raise ValueError(f"it has no column '{name}', or several")
        if not is_right(schema.field(name).type):
            raise ValueError(f"its column '{name}' has {schema.field(name).type}, not {what}")
    budget = max(_ALWAYS_ALLOWED, _MAX_RATIO * os.path.getsize(path))
    metadata = file.metadata
    numbers = sum(
        metadata.row_group(group).column(column).num_values
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
    )
    if 4 * numbers > budget:
        raise ValueError(f"it unpacks to {numbers} values, far more than a file of its size holds")
    return budget


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_list_of_floats(kind: pa.DataType) -> bool:
    is_list = (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
    return is_list and pa.types.is_floating(kind.value_type)


def _keys(file: pq.ParquetFile, budget: int) -> list[str]:
    keys: list[str] = []
    for (column,) in file.iter_batches(_ROWS_AT_ONCE, columns=["key"]):
        budget -= column.nbytes
        if budget < 0:
            raise ValueError("its keys unpack to far more than a file of its size holds")
        keys += texts(column)
    if not keys:
        raise ValueError("it has no rows")
    return keys


def texts(column: pa.Array) -> list[str]:
    """Returns keys; raises `ValueError` if one is missing."""
    if column.null_count:
        raise ValueError("it has a row without a key (null)")
    return column.to_pylist()


def _values(file: pq.ParquetFile, count: int, budget: int) -> np.ndarray:
    values: np.ndarray | None = None
    done = 0
    for (column,) in file.iter_batches(_ROWS_AT_ONCE, columns=["embedding"]):
        rows = matrix(column)
        if values is None:
            if count * rows.shape[1] * 4 > budget:
                raise ValueError(f"it unpacks to {count} embeddings of {rows.shape[1]} numbers")
            values = np.empty([count, rows.shape[1]], np.float32)
        if rows.shape[1] != values.shape[1]:
            raise ValueError(
                f"it has embeddings of {values.shape[1]} and of {rows.shape[1]} numbers"
            )
        values[done : done + len(rows)] = rows
        done += len(rows)
    if values is None or done != count:
        raise ValueError(f"it has {done} embeddings for {count} keys")
    return values


def matrix(lists: pa.Array) -> np.ndarray:
    """Returns lists of one length as a matrix."""
    lengths = pc.unique(pc.list_value_length(lists)).to_pylist()
    if lists.null_count or None in lengths:
        raise ValueError("it has an empty cell (null) instead of an embedding")
    if len(lengths) != 1:
        raise ValueError(f"it has embeddings of {lengths[0]} and of {lengths[1]} numbers")
    numbers = lists.flatten()
    if numbers.null_count:
        raise ValueError("it has an embedding with an empty number (null)")
    if not lengths[0]:
        raise ValueError("it has an embedding without numbers")
    values = numbers.to_numpy(zero_copy_only=False).reshape(len(lists), lengths[0])
    return values.astype(np.float32, copy=False)


def _stats(file: pq.ParquetFile, count: int) -> np.ndarray:
    """Returns size and modification time per row; -1 where the file does not record them."""
    stats = np.full([count, len(_STATS)], -1, np.int64)
    for place, name in enumerate(_STATS):
        if name in file.schema_arrow.names and file.schema_arrow.field(name).type == pa.int64():
            column = file.read(columns=[name])[name]
            stats[:, place] = pc.fill_null(column, -1).to_numpy()
    return stats


def about_of(file: pq.ParquetFile) -> Any:
    """Returns what the file records of its origin, not checked."""
    return json.loads((file.schema_arrow.metadata or {}).get(_METADATA, b"{}"))


def write(path: str, parts: Iterable["Embeddings"], about: dict[str, Any]) -> None:
    """Writes parts one after the other; only one part is in memory at a time.

    The embeddings of a row group are one page, neither compressed nor in a dictionary, which would
    save nothing: so they lie in the file as in memory, and `Rows` maps them.
    """
    schema = pa.schema(
        [("key", pa.string()), ("embedding", pa.list_(pa.float32()))]
        + [(name, pa.int64()) for name in _STATS],
        {_METADATA: json.dumps(about).encode()},
    )
    compression = {"key": "snappy"}
    with pq.ParquetWriter(
        path, schema, compression=compression, use_dictionary=False, data_page_size=_PAGE_BYTES
    ) as writer:
        for part in parts:
            size = part.values.shape[1]
            at_once = max(1, min(_ROWS_AT_ONCE, _PAGE_BYTES // (8 * size)))
            for start in range(0, len(part.keys), at_once):
                rows = slice(start, start + at_once)
                values = part.values[rows]
                offsets = pa.array(np.arange(len(values) + 1) * size, pa.int32())
                writer.write_table(
                    pa.Table.from_arrays(
                        [
                            pa.array(part.keys[rows], pa.string()),
                            pa.ListArray.from_arrays(
                                offsets, pa.array(np.ravel(values), pa.float32())
                            ),
                            *(pa.array(column, pa.int64()) for column in part.stats[rows].T),
                        ],
                        schema=schema,
                    )
                )

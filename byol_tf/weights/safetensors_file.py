"""Reads a .safetensors file: the length of a header, the header in JSON, raw numbers."""

import json
import math
import os
from collections.abc import Callable

import numpy as np

from byol_tf.errors import UserError
from byol_tf.weights.tensor import BFLOAT16, Tensor, decoded

_TYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": BFLOAT16, "I64": "i8", "I32": "i4"}
_LONGEST_HEADER = 100_000_000  # Bytes; the format's own limit.


def read(path: str) -> dict[str, Tensor]:
    """Returns the tensors of the file by name, those of types that weights have.

    Raises:
        UserError: It is not such a file, or damaged.
    """
    size = os.path.getsize(path)
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(size - 8, _LONGEST_HEADER):
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {
            name: _tensor(path, 8 + length, size, entry)
            for name, entry in header.items()
            if entry["dtype"] in _TYPES
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"'{path}' is not a whole .safetensors file ({error}); download it again."
        ) from error


def _tensor(path: str, base: int, size: int, entry: dict) -> Tensor:
    shape = tuple(int(side) for side in entry["shape"])
    start, end = (int(offset) for offset in entry["data_offsets"])
    dtype = _TYPES[entry["dtype"]]
    width = 2 if dtype == BFLOAT16 else np.dtype(dtype).itemsize
    fits = 0 <= start <= end <= size - base and end - start == math.prod(shape) * width
    if not fits or min(shape, default=0) < 0:
        raise ValueError("a tensor does not fit its bytes")
    return Tensor(shape, _reader(path, base + start, end - start, dtype, shape))


def _reader(
    path: str, start: int, count: int, dtype: str, shape: tuple[int, ...]
) -> Callable[[], np.ndarray]:
    def read_tensor() -> np.ndarray:
        with open(path, "rb") as file:
            file.seek(start)
            return np.array(decoded(file.read(count), dtype).reshape(shape), np.float32)

    return read_tensor

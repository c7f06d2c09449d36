"""A tensor of a file: its shape now, its numbers when they are asked for."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np

BFLOAT16 = "bfloat16"  # NumPy has no such type.


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a file.

    Attributes:
        shape: Its sides.
        read: Returns it as float32.
    """

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def decoded(content: bytes, dtype: str, big_endian: bool = False) -> np.ndarray:
    """Returns raw numbers as an array `[N]`: of `dtype`, or float32 for bfloat16."""
    order: Literal["<", ">"] = ">" if big_endian else "<"
    if dtype == BFLOAT16:  # The upper half of a float32.
        halves = np.frombuffer(content, f"{order}u2").astype(np.uint32)
        return (halves << 16).view(np.float32)
    return np.frombuffer(content, np.dtype(dtype).newbyteorder(order))

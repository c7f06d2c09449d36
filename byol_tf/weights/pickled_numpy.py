"""NumPy arrays in a pickle that is read as data."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

_CODES = {f"{kind}{size}" for kind in "fiu" for size in (1, 2, 4, 8)} - {"f1"} | {"b1"}


class _PickledType:
    """A numpy.dtype of a pickle: `dtype('f4', ...)`, then its byte order."""

    def __init__(self, code: Any, *rest: Any):
        self._code, self._order = code, "="

    def build(self, state: Any) -> None:
        """Takes the state: its version, then the byte order."""
        self._order = state[1]

    def numpy(self) -> np.dtype:
        """Returns the type, one of plain numbers."""
        if self._code not in _CODES or self._order not in ("<", ">", "|", "="):
            raise ValueError(f"it has an array of the type {self._code!r}")
        return np.dtype(f"{self._order}{self._code}")


class PickledBytes:
    """Bytes as protocol 2 has them, text to be encoded: once they are used, to save memory."""

    def __init__(self, text: str, encoding: str):
        if encoding != "latin1":
            raise ValueError("it has bytes in an unknown encoding")
        self._text = text

    def content(self) -> bytes:
        """Returns the bytes."""
        return self._text.encode("latin1")


class PickledArray:
    """A numpy.ndarray of a pickle."""

    def __init__(self, *_: Any):
        self._state: tuple = ()

    def build(self, state: Any) -> None:
        """Takes (version, shape, type, whether in Fortran's order, bytes)."""
        self._state = state

    def numbers(self) -> np.ndarray:
        """Returns the array.

        Raises:
            ValueError: Its parts do not fit.
        """
        _, shape, dtype, fortran, content = self._state
        if isinstance(content, PickledBytes):
            content = content.content()
        numbers = np.frombuffer(content, dtype.numpy())
        if math.prod(shape) != numbers.size:
            raise ValueError("an array in it has another shape than bytes")
        return numbers.reshape(shape, order="F" if fortran else "C")


def _create_array(made_by: Any, args: Any, state: Any, *rest: Any) -> PickledArray:
    """dill writes an array so."""
    array = PickledArray()
    array.build(state)
    return array


BUILDERS: dict[str, Callable[..., Any]] = {
    "_codecs encode": PickledBytes,
    "dill._dill _create_array": _create_array,
    "dill.dill _create_array": _create_array,
    "numpy dtype": _PickledType,
    "numpy.core.multiarray _reconstruct": PickledArray,
    "numpy._core.multiarray _reconstruct": PickledArray,
}

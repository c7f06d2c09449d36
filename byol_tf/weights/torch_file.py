"""Reads the tensors of a file of `torch.save` (.pth, .pt, .ckpt), without PyTorch.

Such a file is a zip of a pickle, `data.pkl`, and of one file of raw numbers per storage. The pickle
is read as data (`pickled`); a tensor is read when it is asked for, so that the optimizer's in a
checkpoint cost nothing.
"""

import dataclasses
import math
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from byol_tf.errors import UserError
from byol_tf.weights import pickled
from byol_tf.weights.tensor import BFLOAT16, Tensor, decoded

_TYPES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": BFLOAT16,
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_DEEPEST = 8  # Of dicts in dicts.


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str


@dataclasses.dataclass(frozen=True)
class _View:
    """A tensor of the pickle: where in a storage it is."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: str) -> dict[str, Tensor]:
    """Returns the tensors of the file by name; keys of dicts in dicts are joined by dots.

    Raises:
        UserError: It is a file of another kind, damaged, or of the format before PyTorch 1.6.
    """
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"'{path}' is not a zip, as torch.save writes it since PyTorch 1.6; open it with "
            "PyTorch once and save it again: torch.save(torch.load(OLD, weights_only=True), NEW)."
        )
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        root = next(
            (name[: -len("data.pkl")] for name in names if name.endswith("/data.pkl")), None
        )
        # torch.save compresses nothing; what is compressed could unpack to anything.
        if root is None or any(info.compress_type for info in archive.infolist()):
            raise UserError(
                f"'{path}' is a zip, but not one of torch.save; give a file with a state dict."
            )
        tree = pickled.load_bytes(
            archive.read(f"{root}data.pkl"),
            {
                "collections OrderedDict": lambda *items: {},
                "torch._utils _rebuild_tensor_v2": _view,
                "torch._utils _rebuild_parameter": lambda data, *rest: data,
            },
            _storage,
        )
        big = f"{root}byteorder" in names and archive.read(f"{root}byteorder") == b"big"
    return {
        name: Tensor(view.shape, _reader(path, f"{root}data/{view.storage.key}", view, big))
        for name, view in _flat(tree)
    }


def _storage(identifier: Any) -> _Storage | None:
    """Returns the storage of ('storage', type, key, device, number of elements)."""
    if not (isinstance(identifier, tuple) and len(identifier) >= 3):
        raise ValueError("a storage in it has no key")
    kind, key = identifier[1:3]
    name = kind.name.rpartition(" ")[2] if isinstance(kind, pickled.Global) else ""
    return _Storage(str(key), _TYPES[name]) if name in _TYPES else None


def _view(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Any:
    numbers = [offset, *shape, *strides]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a tensor in it has no shape")
    if not isinstance(storage, _Storage):  # Of a type that no network's weights have.
        return None
    return _View(storage, offset, tuple(shape), tuple(strides))


def _flat(tree: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, _View]]:
    if isinstance(tree, dict) and depth < _DEEPEST:
        for key, value in tree.items():
            name = f"{prefix}{key}"
            if isinstance(value, _View):
                yield name, value
            else:
                yield from _flat(value, f"{name}.", depth + 1)


def _reader(path: str, member: str, view: _View, big: bool) -> Callable[[], np.ndarray]:
    def read_tensor() -> np.ndarray:
        with zipfile.ZipFile(path) as archive:
            try:
                content = archive.read(member)
            except (KeyError, zipfile.BadZipFile) as error:
                raise UserError(f"'{path}' is damaged ({error}); download it again.") from error
        numbers = decoded(content, view.storage.dtype, big)
        last = view.offset + sum(
            (side - 1) * stride for side, stride in zip(view.shape, view.strides, strict=True)
        )
        # No tensor of weights repeats a number by a stride of 0.
        if math.prod(view.shape) > len(numbers) or last >= len(numbers) > 0:
            raise UserError(f"'{path}' is damaged (a tensor is larger than its storage).")
        strides = [stride * numbers.itemsize for stride in view.strides]
        shaped = np.lib.stride_tricks.as_strided(
            numbers[view.offset :], view.shape, strides, writeable=False
        )
        return np.array(shaped, np.float32)

    return read_tensor

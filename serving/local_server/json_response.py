"""REST predict responses: tensors -> JSON, digit for digit as TF Serving's util/json_tensor.cc."""

import base64
import json
import math
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf

from serving.local_server.status import invalid
from serving.local_server.tensors import type_name

_INDENT = "    "


def rows(outputs: Mapping[str, np.ndarray]) -> str:
    """Returns `{"predictions": [...]}`, one element per row.

    An element is the value of the only output, or an object of the outputs if there are several.

    Raises:
        StatusError: INVALID_ARGUMENT if an output has no dimension 0, if its dimension 0 differs
            from the others', or if its type has no JSON form.
    """
    size = 0
    for position, (name, value) in enumerate(outputs.items()):
        if value.ndim == 0:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if position and len(value) != size:
            raise invalid(
                f"Tensor name: {name} has inconsistent batch size: {len(value)} expecting: {size}"
            )
        size = len(value)
    written = {name: _split(_elements(name, value), value) for name, value in outputs.items()}
    if len(outputs) == 1:
        (elements,) = written.values()
        body = ", ".join(elements)
    else:
        body = ", ".join(
            "{\n" + ",\n".join(
                f"{_INDENT * 3}{json.dumps(name)}: {elements[row]}"
                for name, elements in written.items()
            ) + f"\n{_INDENT * 2}}}"
            for row in range(size)
        )  # fmt: skip
    return (
        f'{{\n{_INDENT}"predictions": [{body}\n{_INDENT}]\n}}'
        if size
        else f'{{\n{_INDENT}"predictions": []\n}}'
    )


def columns(outputs: Mapping[str, np.ndarray]) -> str:
    """Returns `{"outputs": ...}`: the only output's value, or an object of the outputs.

    Raises:
        StatusError: INVALID_ARGUMENT for a type that has no JSON form.
    """
    if len(outputs) == 1:
        ((name, value),) = outputs.items()
        body = _column(iter(_elements(name, value)), value.shape, 1)
    else:
        entries = (
            f"{_INDENT * 2}{json.dumps(name)}: "
            f"{_column(iter(_elements(name, value)), value.shape, 2)}"
            for name, value in outputs.items()
        )
        body = "{\n" + ",\n".join(entries) + f"\n{_INDENT}}}"
    return f'{{\n{_INDENT}"outputs": {body}\n}}'


def error(message: str) -> str:
    """Returns `{"error": message}`."""
    return json.dumps({"error": message}, indent=4, ensure_ascii=False)


def _split(elements: list[str], value: np.ndarray) -> list[str]:
    """Formats each row of a tensor on one line."""
    count = math.prod(value.shape[1:])
    return [
        _line(iter(elements[row * count : (row + 1) * count]), value.shape[1:])
        for row in range(len(value))
    ]


def _line(elements: Iterator[str], shape: tuple[int, ...]) -> str:
    if not shape:
        return next(elements)
    return f"[{', '.join(_line(elements, shape[1:]) for _ in range(shape[0]))}]"


def _column(elements: Iterator[str], shape: tuple[int, ...], depth: int) -> str:
    if not shape:
        return next(elements)
    if not shape[0]:
        return "[]"
    inner = f",\n{_INDENT * (depth + 1)}".join(
        _column(elements, shape[1:], depth + 1) for _ in range(shape[0])
    )
    return f"[\n{_INDENT * (depth + 1)}{inner}\n{_INDENT * depth}]"


def _elements(name: str, value: np.ndarray) -> list[str]:
    """Formats all values in order as JSON."""
    match value.dtype:
        case np.float32:
            return _floats(value, 9)
        case np.float64:
            return _floats(value, 17)
        case np.bool_:
            return ["true" if item else "false" for item in value.ravel().tolist()]
        case dtype if dtype.kind in "iu" and dtype != np.uint16:
            return list(map(str, value.ravel().tolist()))
        case dtype if dtype.kind in "OSU":
            return list(map(_bytes if name.endswith("_bytes") else _text, value.ravel().tolist()))
        case dtype:
            raise invalid(
                f"Failed to write JSON value for tensor type: {type_name(tf.as_dtype(dtype))}"
            )


def _floats(value: np.ndarray, digits: int) -> list[str]:
    """Formats floats with six significant digits if they read back to the same value, else all."""
    flat = value.ravel()
    items = flat.tolist()
    short = _formatted("%.6g", items)
    with np.errstate(over="ignore"):
        same = np.array(short, np.float64).astype(value.dtype) == flat if items else []
    result = [
        text if fits else f"{item:.{digits}g}"
        for text, fits, item in zip(short, same, items, strict=True)
    ]
    return [_json_number(text) for text in result]


def _formatted(pattern: str, items: list[float]) -> list[str]:
    # One call of % for all items is several times faster than one call per item.
    return (" ".join([pattern] * len(items)) % tuple(items)).split()


def _json_number(text: str) -> str:
    if "." in text or "e" in text:
        return text
    return _NOT_FINITE.get(text) or f"{text}.0"


_NOT_FINITE = {"nan": "NaN", "-nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _as_bytes(item: bytes | str) -> bytes:
    return item.encode() if isinstance(item, str) else item


def _bytes(item: bytes | str) -> str:
    return f'{{\n"b64": "{base64.b64encode(_as_bytes(item)).decode()}"\n}}'


def _text(item: bytes | str) -> str:
    # Bytes that are not UTF-8 would make the whole answer unreadable for most clients.
    return json.dumps(_as_bytes(item).decode("utf-8", "replace"), ensure_ascii=False)

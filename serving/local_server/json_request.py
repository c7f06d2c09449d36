"""REST predict requests: JSON -> tensors, by the rules of TF Serving's util/json_tensor.cc.

Lists are checked one level at a time, not one value at a time, so that a million numbers cost a few
passes at C speed.
"""

import base64
import binascii
import gc
import itertools
import json
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from serving.local_server.status import Code, StatusError, invalid
from serving.local_server.tensors import type_name

_MAX_SHOWN = 256  # Characters of the client's JSON that an error quotes.
_MAX_DIMENSIONS = 32  # NumPy's limit.
_LARGE = 64 << 10  # Bytes of a body that takes the interpreter a while.
_PARSING_LARGE = threading.Lock()
# Integers must fit the range of this NumPy type. Those of narrow types are checked as int32 and
# then wrapped, as in TF Serving.
_INTEGERS: dict[tf.DType, type[np.integer]] = {
    tf.int32: np.int32,
    tf.int16: np.int32,
    tf.int8: np.int32,
    tf.uint8: np.int32,
    tf.int64: np.int64,
    tf.uint32: np.uint32,
    tf.uint64: np.uint64,
}
_FLOATS = (tf.float32, tf.float64)
_KINDS = {
    type(None): "Null",
    bool: "Boolean",
    dict: "Object",
    list: "Array",
    str: "String",
    int: "Number",
    float: "Number",
}

TensorInfos = Mapping[str, meta_graph_pb2.TensorInfo]


def parse(body: bytes | bytearray) -> dict[str, Any]:
    """Parses the body of a request, a JSON object.

    Raises:
        StatusError: INVALID_ARGUMENT if the body is not JSON in UTF-8, is nested too deeply or is
            not an object, or if its signature_name is not a string.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        document = json.loads(body) if len(body) < _LARGE else _parse_large(body)
    except RecursionError as error:
        raise invalid("JSON Parse error: The document is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise invalid(f"JSON Parse error: {error.msg} at offset: {error.pos}") from error
    except ValueError as error:  # Not UTF-8, or a number with thousands of digits.
        raise invalid(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {shown(document)} Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        raise invalid(
            f"JSON Value: {shown(document)} not formatted correctly. "
            "'signature_name' key must be a string value."
        )
    return document


def _parse_large(body: bytes | bytearray) -> Any:
    """Parses large bodies one at a time: each holds the interpreter, and status calls need it too.

    Without garbage collection, which would walk through millions of new values again and again.
    """
    with _PARSING_LARGE:
        gc.disable()
        try:
            return json.loads(body)
        finally:
            gc.enable()


def to_tensors(document: dict[str, Any], infos: TensorInfos) -> tuple[dict[str, np.ndarray], bool]:
    """Converts a request to the inputs of a signature.

    Args:
        document: Request from `parse`.
        infos: Inputs of the signature by name.

    Returns:
        Inputs by name, strings as arrays of dtype object; and whether they were given by row
        ("instances") instead of by column ("inputs").

    Raises:
        StatusError: INVALID_ARGUMENT if the document does not have this form or its values do not
            have these types; UNIMPLEMENTED for a type that JSON is not converted to.
    """
    if "instances" in document and "inputs" in document:
        raise invalid(
            f"JSON Value: {shown(document)} Not formatted correctly expecting only one of "
            "'inputs' or 'instances' keys to exist "
        )
    if "instances" in document:
        return _from_instances(document, infos), True
    if "inputs" in document:
        return _from_inputs(document["inputs"], infos), False
    raise invalid("Missing 'inputs' or 'instances' key")


def _from_instances(document: dict[str, Any], infos: TensorInfos) -> dict[str, np.ndarray]:
    rows = document["instances"]
    if not isinstance(rows, list):
        raise invalid(f"JSON Value: {shown(document)} Excepting 'instances' to be an list/array")
    if not rows:
        raise invalid(f"JSON Value: {shown(document)} No values in 'instances' array")
    if not isinstance(rows[0], dict) and len(infos) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    if not _is_named(rows[0]):
        for number, row in enumerate(rows):
            if _is_named(row):
                raise invalid(f"Expecting value/list but got object at item {number} of input list")
        ((name, info),) = infos.items()
        return {name: _stacked(rows, tf.as_dtype(info.dtype), "")}
    for number, row in enumerate(rows):
        if not _is_named(row):
            raise invalid(f"Expecting object but got list at item {number} of input list")
        for name in row.keys() - infos.keys():
            raise invalid(
                f"Failed to process element: {number} key: {name} of 'instances' list. Error: "
                f"INVALID_ARGUMENT: JSON object: does not have named input: {name}"
            )
        if row.keys() != set(infos):
            raise invalid(
                f"Failed to process element: {number} of 'instances' list. JSON object: "
                f"{shown(row)} keys must be equal to: {','.join(sorted(infos))}"
            )
    return {
        name: _stacked([row[name] for row in rows], tf.as_dtype(info.dtype), f"key: {name} ")
        for name, info in infos.items()
    }


def _stacked(rows: list[Any], dtype: tf.DType, key: str) -> np.ndarray:
    """Stacks rows of one shape to a tensor; if that fails, finds the bad row for the error."""
    try:
        return _tensor(rows, dtype)
    except StatusError:
        first = None
        for number, row in enumerate(rows):
            try:
                value = _tensor(row, dtype)
                first = value.shape if first is None else first
                if np.prod(value.shape) != np.prod(first):
                    raise invalid(
                        f"Expecting tensor size: {np.prod(first):.0f} but got: {value.size}"
                    )
                if value.shape != first:
                    raise invalid(
                        f"Expecting shape {_listed(first)} but got: {_listed(value.shape)}"
                    )
            except StatusError as error:
                raise invalid(
                    f"Failed to process element: {number} {key}of 'instances' list. Error: "
                    f"{error.code.name}: {error.message}"
                ) from error
        raise


def _listed(shape: Iterable[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _from_inputs(value: Any, infos: TensorInfos) -> dict[str, np.ndarray]:
    if _is_named(value):
        missing = next((name for name in infos if name not in value), None)
        if missing is not None:
            raise invalid(f"Missing named input: {missing} in 'inputs' object.")
        return {name: _tensor(value[name], tf.as_dtype(info.dtype)) for name, info in infos.items()}
    if len(infos) > 1:
        raise invalid(
            "inputs is a plain value/list, but expecting an object as multiple input tensors "
            "required as per tensorinfo_map"
        )
    ((name, info),) = infos.items()
    return {name: _tensor(value, tf.as_dtype(info.dtype))}


def _tensor(value: Any, dtype: tf.DType) -> np.ndarray:
    """Converts nested lists to a tensor; the first element of each level decides the shape."""
    shape: list[int] = []
    level = [value]
    while level and isinstance(level[0], list):
        size = len(level[0])
        for item in level:
            if not isinstance(item, list):
                raise invalid(
                    f"JSON Value: {shown(item)} found at incorrect level: {len(shape) + 1} in the "
                    f"JSON DOM. Expected at level: {len(shape) + 2}"
                )
            if len(item) != size:
                raise invalid(
                    f"Encountered list at unexpected size: {len(item)} at level: {len(shape)} "
                    f"expected size: {size}"
                )
        shape.append(size)
        if len(shape) > _MAX_DIMENSIONS:
            raise invalid(
                f"Encountered list at unexpected level: {len(shape)} expected < {_MAX_DIMENSIONS}"
            )
        level = list(itertools.chain.from_iterable(level))
    return _leaves(level, dtype, len(shape)).reshape(shape)


def _leaves(values: list[Any], dtype: tf.DType, rank: int) -> np.ndarray:
    kinds = set(map(type, values))
    if list in kinds:
        raise invalid(f"Encountered list at unexpected level: {rank} expected < {rank}")
    if dtype == tf.string:
        result = np.empty(len(values), object)
        result[:] = [_bytes(value) for value in values]
        return result
    if dtype in _FLOATS:
        _require(values, kinds <= {int, float}, (int, float), dtype)
        with np.errstate(over="ignore"):  # Out of range becomes infinite, as in TF Serving.
            return np.array(
                [_as_float(value) for value in values] if int in kinds else values, np.float64
            ).astype(dtype.as_numpy_dtype)
    if dtype in _INTEGERS:
        _require(values, kinds <= {int}, (int,), dtype)
        limits = np.iinfo(_INTEGERS[dtype])
        for value in (min(values, default=0), max(values, default=0)):
            if not limits.min <= value <= limits.max:
                raise _type_error(value, dtype)
        return np.array(values, _INTEGERS[dtype]).astype(dtype.as_numpy_dtype)
    if dtype == tf.bool:
        _require(values, kinds <= {bool}, (bool,), dtype)
        return np.array(values, bool)
    raise StatusError(
        Code.UNIMPLEMENTED,
        f"Conversion of JSON Value: {shown(values[:1])} to type: {type_name(dtype)}",
    )


def _require(values: list[Any], fits: bool, kinds: tuple[type, ...], dtype: tf.DType) -> None:
    if not fits:
        raise _type_error(next(value for value in values if type(value) not in kinds), dtype)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # An integer with more than 308 digits.
        return float("inf") if value > 0 else float("-inf")


def _type_error(value: Any, dtype: tf.DType) -> StatusError:
    kind = str(value) if isinstance(value, bool) else _KINDS[type(value)]
    return invalid(
        f"JSON Value: {shown(value)} Type: {kind} is not of expected type: {type_name(dtype)}"
    )


def is_base64(value: Any) -> bool:
    """Returns whether a value is an object with the one entry `"b64": "..."`."""
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def decode_base64(value: Mapping[str, str]) -> bytes:
    """Decodes an `is_base64` object; standard alphabet, padding is optional.

    Raises:
        StatusError: INVALID_ARGUMENT if the text is not base64.
    """
    text = "".join(value["b64"].split())  # Line breaks are fine: many encoders make them.
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid("Unable to base64 decode") from error


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if not isinstance(value, dict):
        raise _type_error(value, tf.string)
    if not is_base64(value):
        raise invalid(f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    return decode_base64(value)


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def shown(value: Any) -> str:
    """Returns the beginning of a value's JSON, to quote it in an error."""
    text = json.dumps(_beginning(value))
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."


def _beginning(value: Any, depth: int = 4) -> Any:
    """Keeps the first few entries, so that quoting a request of megabytes is cheap."""
    if isinstance(value, dict):
        return {
            key: _beginning(item, depth - 1) for key, item in itertools.islice(value.items(), depth)
        }
    if isinstance(value, list):
        return [_beginning(item, depth - 1) for item in value[:depth]]
    return value[:_MAX_SHOWN] if isinstance(value, str) else value

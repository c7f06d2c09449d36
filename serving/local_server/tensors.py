"""Conversion between TensorProto and NumPy; a small message cannot claim a huge tensor."""

import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from serving.local_server.status import invalid

# A TensorProto may give one value for all its elements: 30 bytes could claim all memory.
_MAX_FILL_BYTES = 64 << 20

_VALUES = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int32: "int_val",
    tf.int16: "int_val",
    tf.int8: "int_val",
    tf.uint8: "int_val",
    tf.string: "string_val",
    tf.int64: "int64_val",
    tf.bool: "bool_val",
    tf.uint16: "int_val",
    tf.uint32: "uint32_val",
    tf.uint64: "uint64_val",
}


def type_name(dtype: tf.DType) -> str:
    """Returns the name in TF Serving's messages: float, double, half, or else TensorFlow's name."""
    return {"float32": "float", "float64": "double", "float16": "half"}.get(dtype.name, dtype.name)


def from_proto(name: str, proto: tensor_pb2.TensorProto) -> np.ndarray:
    """Returns the value of an input; strings as an array of dtype object.

    Args:
        name: Name of the input, for the error.
        proto: Tensor of the request.

    Raises:
        StatusError: INVALID_ARGUMENT "tensor parsing error: NAME (reason)" if shape, type and
            values do not agree, or if more than 64 MiB would be filled with one value.
    """
    try:
        _check_fill(proto)
        return tf.make_ndarray(proto)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise invalid(f"tensor parsing error: {name} ({error})") from error


def _check_fill(proto: tensor_pb2.TensorProto) -> None:
    if proto.tensor_shape.unknown_rank:
        raise ValueError("the shape is unknown")
    sizes = [dim.size for dim in proto.tensor_shape.dim]
    if min(sizes, default=0) < 0:
        raise ValueError(f"the shape {sizes} has a negative size")
    dtype = tf.as_dtype(proto.dtype)
    each = dtype.size or 8
    if len(proto.string_val) == 1:  # TensorFlow copies it for each element.
        each += len(proto.string_val[0])
    size = math.prod(sizes) * each
    # Values that the message spells out are bounded by its own size.
    given = len(proto.tensor_content) or proto.ByteSize() * 8
    if size > given and size > _MAX_FILL_BYTES:
        raise ValueError(
            f"the shape {sizes} is more than the values given and more than {_MAX_FILL_BYTES} bytes"
        )


def to_proto(value: np.ndarray) -> tensor_pb2.TensorProto:
    """Converts an output, in the typed fields (`float_val`, ...) that TF Serving 2.15 uses."""
    dtype = tf.string if value.dtype.kind in "OSU" else tf.as_dtype(value.dtype)
    if dtype in (tf.float16, tf.bfloat16):
        field, value = "half_val", value.view(np.uint16)
    elif dtype in _VALUES:
        field = _VALUES[dtype]
    else:  # complex, quantized: rare, and TensorFlow knows how to pack them.
        return tf.make_tensor_proto(value)
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum)
    for size in value.shape:
        proto.tensor_shape.dim.add(size=size)
    getattr(proto, field).extend(value.ravel().tolist())
    return proto

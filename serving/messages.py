"""Protobuf messages declared in Python, for those that no package ships without a heavy import."""

from collections.abc import Mapping, Sequence

from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    wrappers_pb2,
)
from google.protobuf.message import Message

_FIELD = descriptor_pb2.FieldDescriptorProto
_IMPORTED = (any_pb2.DESCRIPTOR, wrappers_pb2.DESCRIPTOR)
_SCALARS = {
    "bool": _FIELD.TYPE_BOOL,
    "bytes": _FIELD.TYPE_BYTES,
    "float": _FIELD.TYPE_FLOAT,
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
    "string": _FIELD.TYPE_STRING,
}


def define(
    package: str, messages: Mapping[str, Sequence[tuple[str, int, str]]]
) -> dict[str, type[Message]]:
    """Makes message classes in a descriptor pool of their own, so that no names clash.

    Args:
        package: Package of the messages; it does not appear on the wire.
        messages: Fields (name, number, type) of each message by name. A type is a scalar, a name in
            `messages`, `google.protobuf.Any`, a wrapper such as `google.protobuf.Int64Value`,
            `repeated TYPE`, or `map TYPE` with strings as keys.

    Returns:
        Classes by name.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}.proto",
        package=package,
        syntax="proto3",
        dependency=[file.name for file in _IMPORTED],
    )
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            *repeated, kind = kind.split()
            if repeated == ["map"]:
                entry = message.nested_type.add(name=f"{field.title().replace('_', '')}Entry")
                entry.options.map_entry = True
                _add(entry, package, "key", 1, "string")
                _add(entry, package, "value", 2, kind)
                kind = f"{package}.{name}.{entry.name}"
            _add(message, package, field, number, kind, bool(repeated))
    pool = descriptor_pool.DescriptorPool()
    for imported in _IMPORTED:
        pool.AddSerializedFile(imported.serialized_pb)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in messages
    }


def _add(message, package: str, name: str, number: int, kind: str, repeated: bool = False) -> None:
    field = message.field.add(name=name, number=number)
    field.label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
    field.type = _SCALARS.get(kind, _FIELD.TYPE_MESSAGE)
    if kind not in _SCALARS:
        field.type_name = f".{kind}" if "." in kind else f".{package}.{kind}"

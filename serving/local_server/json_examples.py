"""Checks of a REST classify or regress request's examples, made before the model is looked up."""

from typing import Any

from tensorflow.core.example import example_pb2, feature_pb2

from serving.local_server.json_request import decode_base64, is_base64, shown
from serving.local_server.status import invalid

_KINDS = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}


def check(document: dict[str, Any]) -> None:
    """Raises INVALID_ARGUMENT unless the document has valid "examples" and, if any, "context"."""
    if "context" in document:
        _example(document["context"])
    if "examples" not in document:
        raise invalid(
            f"JSON Value: {shown(document)} When method is classify, key 'examples' "
            "is expected and was not found"
        )
    examples = document["examples"]
    if not isinstance(examples, list):
        raise invalid(
            f"JSON Value: {shown(document)} Expecting 'examples' value to be an list/array"
        )
    if not examples:
        raise invalid(f"JSON Value: {shown(document)} 'examples' value is an empty array")
    for example in examples:
        _example(example)


def _example(value: Any) -> None:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {type(value).__name__}")
    example = example_pb2.Example()
    for name, content in value.items():
        feature = example.features.feature[name]
        for item in content if isinstance(content, list) else [content]:
            _add(feature, name, item)


def _add(feature: feature_pb2.Feature, name: str, item: Any) -> None:
    if isinstance(item, (bool, int)):
        kind, item = "int64_list", int(item)
        if not -(2**63) <= item < 2**63:
            raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
    elif isinstance(item, float):
        kind = "float_list"
    elif isinstance(item, str) or is_base64(item):
        kind = "bytes_list"
        item = (
            decode_base64(item) if isinstance(item, dict) else item.encode("utf-8", "surrogatepass")
        )
    else:
        raise invalid(
            f"Feature: {name} has element with unexpected JSON type: {type(item).__name__}"
        )
    earlier = feature.WhichOneof("kind")
    if earlier not in (None, kind):
        raise invalid(
            f"Unexpected element type in feature: {name} expecting type: {_KINDS[earlier]}"
        )
    getattr(feature, kind).value.append(item)

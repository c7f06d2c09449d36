"""Predict on one version: request -> tensors -> signature -> response.

The checks, their order and their messages are TF Serving's (servables/tensorflow/predict_util.cc).
"""

from collections.abc import Mapping, Sequence

from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import predict_pb2

from serving.local_server import tensors
from serving.local_server.cancellation import Cancellation
from serving.local_server.request_limits import check_shape
from serving.local_server.servable import Servable
from serving.local_server.status import Code, StatusError, invalid


def predict_with(
    servable: Servable,
    request: predict_pb2.PredictRequest,
    timeout: float | None,
    cancellation: Cancellation | None = None,
) -> predict_pb2.PredictResponse:
    """Answers a request with one version.

    Args:
        servable: The version; the name, version and label in the request are ignored.
        request: Request of the client or of the warm-up.
        timeout: Seconds that the model may take, or None for no limit.
        cancellation: Cancellation of the request, or None if nobody will cancel it.

    Returns:
        Response with the outputs and the name of the signature.

    Raises:
        StatusError: FAILED_PRECONDITION for an unknown signature, INVALID_ARGUMENT for inputs or
            outputs that do not fit it, or an error of `Servable.run`.
    """
    name = request.model_spec.signature_name or "serving_default"
    signature = servable.signature(name)
    if signature is None:
        raise StatusError(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
    check_names(signature, request.inputs)
    for key, info in signature.inputs.items():
        check_shape(key, info, [dim.size for dim in request.inputs[key].tensor_shape.dim])
    inputs = {key: tensors.from_proto(key, request.inputs[key]) for key in signature.inputs}
    check_outputs(signature, request.output_filter)
    outputs = servable.run(name, inputs, request.output_filter, timeout, cancellation)
    response = predict_pb2.PredictResponse()
    response.model_spec.signature_name = name
    for key, value in outputs.items():
        response.outputs[key].CopyFrom(tensors.to_proto(value))
    return response


def check_names(signature: meta_graph_pb2.SignatureDef, inputs: Mapping[str, object]) -> None:
    """Raises INVALID_ARGUMENT unless `inputs` has exactly the names of the signature's inputs."""
    given, expected = set(inputs), set(signature.inputs)
    if len(given) != len(expected):

        def listed(names: set[str]) -> str:
            return "{" + ",".join(sorted(names)) + "}"

        raise invalid(
            f"input size does not match signature: {len(given)}!={len(expected)} "
            f"len({listed(given)}) != len({listed(expected)}). "
            f"Sent extra: {listed(given - expected)}. "
            f"Missing but required: {listed(expected - given)}."
        )
    for name in sorted(expected - given):
        feed = signature.inputs[name].name
        raise invalid(
            f"Signature input alias: {name}(feed name: {feed}) not found in request and "
            "no default value provided."
        )


def check_outputs(signature: meta_graph_pb2.SignatureDef, wanted: Sequence[str]) -> None:
    """Raises INVALID_ARGUMENT unless `wanted` are distinct outputs of the signature."""
    seen: set[str] = set()
    for name in wanted:
        if name not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {name} Outputs expected to be in "
                f"the set {{{','.join(sorted(signature.outputs))}}}."
            )
        if name in seen:
            raise invalid(f"duplicate output tensor alias: {name}")
        seen.add(name)

"""What each call of the protocols does; gRPC and REST differ only in how messages travel.

Every call takes and returns a message, except REST's predict, which stays with JSON and arrays.
"""

import time
from collections.abc import Callable
from typing import Any, NoReturn

from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.local_server import json_request, json_response, metrics, model_config
from serving.local_server.cancellation import Cancellation
from serving.local_server.model_store import ModelStore
from serving.local_server.predict import predict_with
from serving.local_server.status import Code, StatusError, invalid


def predict(
    store: ModelStore,
    request: predict_pb2.PredictRequest,
    timeout: float | None,
    cancellation: Cancellation | None = None,
) -> predict_pb2.PredictResponse:
    """Answers PredictionService.Predict.

    Raises:
        StatusError: From `ModelStore.lease` or `predict_with`; INVALID_ARGUMENT without a
            model_spec.
    """
    _check_spec(request)
    with store.lease(request.model_spec) as version:
        begin = time.perf_counter()
        response = predict_with(version.servable, request, timeout, cancellation)
        metrics.observe_run(request.model_spec.name, begin)
    response.model_spec.name = request.model_spec.name
    response.model_spec.version.value = version.number
    return response


def predict_json(
    store: ModelStore,
    spec: model_pb2.ModelSpec,
    document: dict[str, Any],
    timeout: float,
    cancellation: Cancellation | None = None,
) -> str:
    """Answers REST's predict.

    Args:
        store: Store of the models.
        spec: Model, version or label, and signature of the request.
        document: Body of the request, from `json_request.parse`.
        timeout: Seconds that the model may take.
        cancellation: Cancellation of the request, or None if nobody will cancel it.

    Returns:
        Body of the response: rows for "instances", columns for "inputs".

    Raises:
        StatusError: From `ModelStore.lease`, `json_request.to_tensors`, `Servable.run` or
            `json_response`; INVALID_ARGUMENT for a signature that does not exist or has no inputs.
    """
    name = spec.signature_name or "serving_default"
    with store.lease(spec) as version:
        signature = version.servable.signature(name)
        if signature is None:
            raise invalid(f'Serving signature name: "{name}" not found in signature def')
        if not signature.inputs:
            raise invalid(
                f"Failed to get input map for signature: {spec.signature_name or 'DEFAULT'}"
            )
        inputs, by_row = json_request.to_tensors(document, signature.inputs)
        begin = time.perf_counter()
        outputs = version.servable.run(name, inputs, timeout=timeout, cancellation=cancellation)
        metrics.observe_run(spec.name, begin)
    return json_response.rows(outputs) if by_row else json_response.columns(outputs)


def classify(
    store: ModelStore, request: classification_pb2.ClassificationRequest, timeout: float | None
) -> NoReturn:
    """Refuses PredictionService.Classify, with TF Serving's error if the signature does not fit.

    Raises:
        StatusError: Always; UNIMPLEMENTED for a signature that TF Serving would answer.
    """
    del timeout
    _refuse(store, request, "classification", {"classes", "scores"})


def regress(
    store: ModelStore, request: regression_pb2.RegressionRequest, timeout: float | None
) -> NoReturn:
    """Refuses PredictionService.Regress, with TF Serving's error if the signature does not fit.

    Raises:
        StatusError: Always; UNIMPLEMENTED for a signature that TF Serving would answer.
    """
    del timeout
    _refuse(store, request, "regression", {"outputs"})


def _refuse(store: ModelStore, request, kind: str, outputs: set[str]) -> NoReturn:
    """Makes the checks of TF Serving's classifier.cc and regressor.cc, in their order."""
    _check_spec(request)
    with store.lease(request.model_spec) as version:
        name = request.model_spec.signature_name or "serving_default"
        signature = version.servable.signature(name)
    if signature is None:
        raise invalid(f"No signature was found with the name: {name}")
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if "inputs" not in signature.inputs:
        raise invalid(f"No {kind} inputs found in SignatureDef: {signature}")
    if outputs.isdisjoint(signature.outputs):
        raise invalid(
            f"Expected {kind} signature outputs to contain {sorted(outputs)}. "
            f"Signature was: {signature}"
        )
    if not (
        request.input.example_list.examples or request.input.example_list_with_context.examples
    ):
        raise invalid("Input is empty.")
    raise StatusError(
        Code.UNIMPLEMENTED,
        f"byol-serve answers {kind} signatures with Predict only; send '{name}' a PredictRequest",
    )


def get_model_metadata(
    store: ModelStore, request: get_model_metadata_pb2.GetModelMetadataRequest
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Answers PredictionService.GetModelMetadata with the signatures of a version.

    Raises:
        StatusError: From `ModelStore.lease`; INVALID_ARGUMENT unless the request asks for
            `signature_def` and nothing else.
    """
    _check_spec(request)
    if not request.metadata_field:
        raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != "signature_def":
            raise invalid(f"Metadata field {field} is not supported")
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    signatures = get_model_metadata_pb2.SignatureDefMap()
    with store.lease(request.model_spec) as version:
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version.number
        for name, signature in version.servable.signatures.items():
            signatures.signature_def[name].CopyFrom(signature)
    response.metadata["signature_def"].Pack(signatures)
    return response


def get_model_status(
    store: ModelStore, request: get_model_status_pb2.GetModelStatusRequest
) -> get_model_status_pb2.GetModelStatusResponse:
    """Answers ModelService.GetModelStatus.

    Raises:
        StatusError: From `ModelStore.status`; INVALID_ARGUMENT without a model_spec.
    """
    _check_spec(request)
    return store.status(request.model_spec)


def reload_config(
    store: ModelStore, request: model_management_pb2.ReloadConfigRequest, go_on: Callable[[], bool]
) -> model_management_pb2.ReloadConfigResponse:
    """Answers ModelService.HandleReloadConfigRequest once every new model has loaded or failed.

    Args:
        store: Store whose config is replaced.
        request: Request with the new config.
        go_on: Returns whether the client still waits for the answer.

    Raises:
        StatusError: From `model_config.checked`, `ModelStore.configure` or `ModelStore.wait`.
    """
    store.wait(store.configure(model_config.checked(request.config)), go_on)
    response = model_management_pb2.ReloadConfigResponse()
    response.status.error_code = Code.OK
    return response


def _check_spec(request) -> None:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")

"""The calls of both protocols, each from a request message to a response message.

What differs between gRPC and REST is only how messages travel; what they mean is here.
"""

import time
from collections.abc import Callable

from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.local_server import metrics, model_config
from serving.local_server.model_store import ModelStore
from serving.local_server.predict import predict_with
from serving.local_server.status import Code, StatusError, as_status, invalid


def predict(
    store: ModelStore, request: predict_pb2.PredictRequest, timeout: float | None
) -> predict_pb2.PredictResponse:
    """PredictionService.Predict.

    Raises:
        StatusError: of `ModelStore.use` and `predict_with`; INVALID_ARGUMENT without a model_spec.
    """
    _check_spec(request)
    with store.use(request.model_spec) as version:
        begin = time.perf_counter()
        response = predict_with(version.servable, request, timeout)
        observe_run(request.model_spec.name, begin)
    response.model_spec.name = request.model_spec.name
    response.model_spec.version.value = version.number
    return response


def observe_run(model_name: str, begin: float) -> None:
    """Counts a run that began at `begin` (`time.perf_counter`) in the metric of latencies."""
    latency = metrics.RUNTIME_LATENCY.labels(model_name, "Predict", "TF1")
    latency.observe((time.perf_counter() - begin) * 1e6)


def classify(
    store: ModelStore, request: classification_pb2.ClassificationRequest, timeout: float | None
):
    """PredictionService.Classify, as TF Serving answers where a signature does not have that form.

    Raises:
        StatusError: always; UNIMPLEMENTED where the signature does have it.
    """
    del timeout
    _one_shot(store, request, "classification", {"classes", "scores"})


def regress(store: ModelStore, request: regression_pb2.RegressionRequest, timeout: float | None):
    """PredictionService.Regress, likewise."""
    del timeout
    _one_shot(store, request, "regression", {"outputs"})


def _one_shot(store: ModelStore, request, kind: str, outputs: set[str]) -> None:
    """The checks of TF Serving's classifier.cc and regressor.cc, in their order."""
    _check_spec(request)
    with store.use(request.model_spec) as version:
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
            f"Expected {kind} signature outputs to contain {sorted(outputs)}. Signature was: {signature}"
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
    """PredictionService.GetModelMetadata: the signatures of a version.

    Raises:
        StatusError: INVALID_ARGUMENT unless `signature_def`, and nothing else, is asked for; of
            `ModelStore.use`.
    """
    _check_spec(request)
    if not request.metadata_field:
        raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != "signature_def":
            raise invalid(f"Metadata field {field} is not supported")
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    signatures = get_model_metadata_pb2.SignatureDefMap()
    with store.use(request.model_spec) as version:
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version.number
        for name, signature in version.servable.signatures.items():
            signatures.signature_def[name].CopyFrom(signature)
    response.metadata["signature_def"].Pack(signatures)
    return response


def get_model_status(
    store: ModelStore, request: get_model_status_pb2.GetModelStatusRequest
) -> get_model_status_pb2.GetModelStatusResponse:
    """ModelService.GetModelStatus.

    Raises:
        StatusError: of `ModelStore.status`; INVALID_ARGUMENT without a model_spec.
    """
    _check_spec(request)
    return store.status(request.model_spec)


def reload_config(
    store: ModelStore, request: model_management_pb2.ReloadConfigRequest, go_on: Callable[[], bool]
) -> model_management_pb2.ReloadConfigResponse:
    """ModelService.HandleReloadConfigRequest: answers when every new model has loaded, or failed to.

    Args:
        store: whose config is replaced.
        request: with the new one.
        go_on: whether somebody still waits for the answer.

    Raises:
        StatusError: of `model_config.checked`, `ModelStore.configure` and `ModelStore.wait`.
    """
    store.wait(store.configure(model_config.checked(request.config)), go_on)
    response = model_management_pb2.ReloadConfigResponse()
    response.status.error_code = Code.OK
    return response


class Counted:
    """Counts a call: by its code, and its latency where it succeeds. A context manager.

    Args:
        store: whose models have a name of their own in the metrics; others are counted under none,
            for clients could make up as many as they like.
        model_name: as the client gave it.
        api: "Predict", ...
        entrypoint: "GRPC" or "REST".
    """

    def __init__(self, store: ModelStore, model_name: str, api: str, entrypoint: str):
        self._name = model_name if store.knows(model_name) else ""
        self._labels = (api, entrypoint)

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, kind, error, trace) -> None:
        code = (
            as_status(error).code
            if isinstance(error, Exception)
            else Code.CANCELLED
            if error
            else Code.OK
        )
        metrics.REQUESTS.labels(self._name, code.name).inc()
        if code == Code.OK:
            latency = metrics.REQUEST_LATENCY.labels(self._name, *self._labels)
            latency.observe((time.perf_counter() - self._begin) * 1e6)


def _check_spec(request) -> None:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")

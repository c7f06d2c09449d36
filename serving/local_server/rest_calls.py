"""REST calls by TF Serving's URLs (model_servers/http_rest_api_util.cc), and its metrics page."""

import inspect
import re
import time
import urllib.parse
from typing import NoReturn

from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    regression_pb2,
)
from tornado import httputil

from serving.local_server import calls, json_examples, json_request, metrics
from serving.local_server.cancellation import Cancellation
from serving.local_server.model_store import ModelStore
from serving.local_server.request_memory import RequestBody
from serving.local_server.status import invalid

JSON = "application/json"
# The words of a path may have any case; the verb must be lower case.
_SPEC = "([^/:]+)(?:/(?i:versions)/([0-9]+)|/(?i:labels)/([^/:]+))?"
_INFERENCE = re.compile(f"(?i:/v1/models)/{_SPEC}:(classify|regress|predict)")
_ABOUT = re.compile(f"(?i:/v1/models)(?:/{_SPEC})?(/(?i:metadata))?")
# Since protobuf 5.26, the argument has the second name.
_WITH_DEFAULTS = {"including_default_value_fields", "always_print_fields_with_no_presence"} & {
    *inspect.signature(json_format.MessageToJson).parameters
}


class RestCalls:
    """Answers REST requests that have arrived; for use by several threads.

    Args:
        store: Store of the models.
        metrics_path: URL path of the Prometheus metrics, or None for no metrics.
    """

    def __init__(self, store: ModelStore, metrics_path: str | None = None):
        self._store = store
        self._metrics_path = metrics_path

    def respond(
        self,
        request: httputil.HTTPServerRequest,
        body: RequestBody,
        end: float,
        cancellation: Cancellation,
    ) -> tuple[int, str, str]:
        """Returns status, content type and text of the response.

        Args:
            request: Head of the request.
            body: Body of the request.
            end: Time (`time.monotonic`) at which the response must be ready.
            cancellation: Cancellation of the request; only predictions take long enough for it.

        Raises:
            StatusError: The call fails.
        """
        path = request.uri or ""
        if self._metrics_path and path.partition("?")[0] == self._metrics_path:
            if path != self._metrics_path:
                return 400, "text/plain", "Unsupported query string\n"
            return 200, "text/plain", metrics.page()
        if not path.lower().startswith("/v1/"):
            return 404, "text/html", _NOT_FOUND
        if request.method == "OPTIONS":
            # CORS is off, as by default in TF Serving: no headers, only the status.
            origin = request.headers.get("Origin", "")
            return (200 if re.search("https?://", origin) else 400), JSON, ""
        return 200, JSON, self._call(request, path, body, end, cancellation)

    def _call(
        self,
        request: httputil.HTTPServerRequest,
        path: str,
        body: RequestBody,
        end: float,
        cancellation: Cancellation,
    ) -> str:
        if request.method == "POST" and (match := _INFERENCE.fullmatch(path)):
            name, version, label, method = match.groups()
            spec = _model_spec(name, version, label)
            with metrics.Counted(self._store.known_name(spec.name), method, "REST"):
                if "gzip" in request.headers.get("Content-Encoding", ""):
                    body.unpack()
                document = json_request.parse(body.content)
                spec.signature_name = document.get("signature_name", "")
                if method == "predict":
                    return calls.predict_json(self._store, spec, document, _left(end), cancellation)
                json_examples.check(document)
                self._refuse(spec, method, _left(end))
        if request.method == "GET" and (match := _ABOUT.fullmatch(path)):
            name, version, label, metadata = match.groups()
            if not name:
                raise invalid("Missing model name in request.")
            spec = _model_spec(name, version, label)
            with metrics.Counted(self._store.known_name(spec.name), "", "REST"):
                return self._metadata(spec) if metadata else self._status(spec)
        raise invalid(f"Malformed request: {request.method} {path}")

    def _refuse(self, spec: model_pb2.ModelSpec, method: str, timeout: float) -> NoReturn:
        # One empty example stands for all that were read: only whether there are any matters.
        if method == "classify":
            classification = classification_pb2.ClassificationRequest(model_spec=spec)
            classification.input.example_list.examples.add()
            calls.classify(self._store, classification, timeout)
        regression = regression_pb2.RegressionRequest(model_spec=spec)
        regression.input.example_list.examples.add()
        calls.regress(self._store, regression, timeout)

    def _status(self, spec: model_pb2.ModelSpec) -> str:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
        return _as_json(calls.get_model_status(self._store, request)) + "\n"

    def _metadata(self, spec: model_pb2.ModelSpec) -> str:
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=spec, metadata_field=["signature_def"]
        )
        response = calls.get_model_metadata(self._store, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return (
            f'{{\n"model_spec":{_as_json(response.model_spec)}\n,\n"metadata": '
            f'{{"signature_def": {_as_json(signatures)}\n}}\n}}\n'
        )


def _left(end: float) -> float:
    return end - time.monotonic()


def _model_spec(name: str, version: str | None, label: str | None) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=_unquoted(name))
    if version:
        if len(version.lstrip("0")) > 19 or int(version) >= 2**63:
            raise invalid(f"Failed to convert version: {version} to numeric.")
        spec.version.value = int(version)
    elif label:
        spec.version_label = _unquoted(label)
    return spec


def _unquoted(text: str) -> str:
    return urllib.parse.unquote(text, errors="replace")


def _as_json(message) -> str:
    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, indent=1, **dict.fromkeys(_WITH_DEFAULTS, True)
    )


_NOT_FOUND = (
    "<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n"
    "</HEAD><BODY>\n<H1>Not Found</H1>\n</BODY></HTML>\n"
)

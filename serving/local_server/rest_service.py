"""The REST side on Tornado: TF Serving's URLs (model_servers/http_rest_api_util.cc) and metrics.

Tornado reads requests on the event loop, so that slow clients hold no thread; predictions run in a
pool of threads.
"""

import asyncio
import re
import ssl
import time
import urllib.parse
import zlib
from concurrent import futures
from typing import NoReturn

from absl import logging
from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    regression_pb2,
)
from tornado import httpserver, httputil

from serving.errors import UserError
from serving.local_server import calls, json_examples, json_request, json_response, metrics
from serving.local_server.model_store import ModelStore
from serving.local_server.status import HTTP_STATUS, invalid, reported

# The words of a path may have any case; the verb must be lower case.
_SPEC = "([^/:]+)(?:/(?i:versions)/([0-9]+)|/(?i:labels)/([^/:]+))?"
_INFERENCE = re.compile(f"(?i:/v1/models)/{_SPEC}:(classify|regress|predict)")
_ABOUT = re.compile(f"(?i:/v1/models)(?:/{_SPEC})?(/(?i:metadata))?")
# Maximum bytes of a body as sent (TF Serving has no limit), and of an unpacked one (its limit).
_MAX_BODY = 256 << 20
_MAX_UNPACKED = 100 << 20
# Seconds that a client may take to send a request, and may be silent between two requests.
_BODY_TIMEOUT = 300
_IDLE_TIMEOUT = 600

_JSON = "application/json"


class RestServer:
    """A REST server that listens until it is drained; made and used in a running event loop.

    Args:
        store: Store of the models.
        address: Host and port to listen on.
        max_threads: Requests that run at the same time; others wait.
        timeout: Seconds that the model may take for a request.
        ssl_context: Context for TLS, or None for plain text.
        metrics_path: URL path of the Prometheus metrics, or None for no metrics.

    Raises:
        UserError: The server cannot listen on the address.
    """

    def __init__(
        self,
        store: ModelStore,
        address: tuple[str, int],
        max_threads: int,
        timeout: float,
        ssl_context: ssl.SSLContext | None = None,
        metrics_path: str | None = None,
    ):
        self._store = store
        self._timeout = timeout
        self._metrics_path = metrics_path
        self._pool = futures.ThreadPoolExecutor(max_threads, "rest")
        self._running: set[asyncio.Task] = set()
        self._draining = False
        self._server = httpserver.HTTPServer(
            self._begin,
            ssl_options=ssl_context,
            max_buffer_size=_MAX_BODY,
            max_body_size=_MAX_BODY,
            body_timeout=_BODY_TIMEOUT,
            idle_connection_timeout=_IDLE_TIMEOUT,
        )
        host, port = address
        try:
            self._server.listen(port, host)
        except OSError as error:
            raise UserError(
                f"cannot listen on {host}:{port} for REST ({error}); "
                "give another --rest_api_port or --host."
            ) from error

    async def drain(self, seconds: float) -> None:
        """Refuses new connections and waits up to `seconds` for running requests."""
        self._draining = True
        self._server.stop()
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)
        await self._server.close_all_connections()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, request: httputil.HTTPServerRequest) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(request))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _answer(self, request: httputil.HTTPServerRequest) -> None:
        # Not in the pool, whose threads may all be busy: status and metrics matter most just then.
        pool = self._pool if request.method == "POST" else None
        try:
            status, kind, text = await asyncio.get_running_loop().run_in_executor(
                pool, self._respond, request
            )
        except Exception as error:
            failure = reported(error)
            status, kind = HTTP_STATUS.get(failure.code, 500), _JSON
            text = json_response.error(failure.message)
        body = text.encode("utf-8", "backslashreplace")
        reason = httputil.responses.get(status, "Unknown")
        headers = httputil.HTTPHeaders({"Content-Type": kind, "Content-Length": str(len(body))})
        headers["Date"] = httputil.format_timestamp(time.time())
        if self._draining:
            headers["Connection"] = "close"
        connection = request.connection
        assert connection is not None  # Tornado sets it on every request that it has received.
        try:
            head = httputil.ResponseStartLine("HTTP/1.1", status, reason)
            # The futures of the writes are not awaited: nothing is left to do after them.
            connection.write_headers(head, headers, b"" if request.method == "HEAD" else body)
            connection.finish()
        except Exception as error:
            logging.debug("the client is gone: %s", error)

    def _respond(self, request: httputil.HTTPServerRequest) -> tuple[int, str, str]:
        """Returns status, content type and body of the response. Runs in a thread."""
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
            return (200 if re.search("https?://", origin) else 400), _JSON, ""
        return 200, _JSON, self._call(request, path)

    def _call(self, request: httputil.HTTPServerRequest, path: str) -> str:
        if request.method == "POST" and (match := _INFERENCE.fullmatch(path)):
            name, version, label, method = match.groups()
            spec = _model_spec(name, version, label)
            with metrics.Counted(self._store.known_name(spec.name), method, "REST"):
                document = json_request.parse(_body(request))
                spec.signature_name = document.get("signature_name", "")
                if method == "predict":
                    return calls.predict_json(self._store, spec, document, self._timeout)
                json_examples.check(document)
                self._refuse(spec, method)
        if request.method == "GET" and (match := _ABOUT.fullmatch(path)):
            name, version, label, metadata = match.groups()
            if not name:
                raise invalid("Missing model name in request.")
            spec = _model_spec(name, version, label)
            with metrics.Counted(self._store.known_name(spec.name), "", "REST"):
                return self._metadata(spec) if metadata else self._status(spec)
        raise invalid(f"Malformed request: {request.method} {path}")

    def _refuse(self, spec: model_pb2.ModelSpec, method: str) -> NoReturn:
        # One empty example stands for all that were read: only whether there are any matters.
        if method == "classify":
            classification = classification_pb2.ClassificationRequest(model_spec=spec)
            classification.input.example_list.examples.add()
            calls.classify(self._store, classification, self._timeout)
        regression = regression_pb2.RegressionRequest(model_spec=spec)
        regression.input.example_list.examples.add()
        calls.regress(self._store, regression, self._timeout)

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


def _body(request: httputil.HTTPServerRequest) -> bytes:
    if "gzip" not in request.headers.get("Content-Encoding", ""):
        return request.body
    unpacker = zlib.decompressobj(wbits=31)
    try:
        body = unpacker.decompress(request.body, _MAX_UNPACKED)
    except zlib.error:
        return b""  # TF Serving treats what it cannot unpack as an empty body.
    return body if unpacker.eof else b""


def _as_json(message) -> str:
    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, including_default_value_fields=True, indent=1
    )


_NOT_FOUND = (
    "<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n"
    "</HEAD><BODY>\n<H1>Not Found</H1>\n</BODY></HTML>\n"
)

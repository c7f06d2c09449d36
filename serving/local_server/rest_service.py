"""The REST side on Tornado: TF Serving's URLs (model_servers/http_rest_api_util.cc) and metrics.

Tornado reads requests on the event loop, so that slow clients cost no thread; what they ask for
runs in a pool of threads.
"""

import asyncio
import re
import ssl
import time
import urllib.parse
import zlib
from concurrent import futures

from absl import logging
from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    model_pb2,
    regression_pb2,
)
from tornado import httpserver, httputil

from serving.errors import UserError
from serving.local_server import calls, json_examples, json_request, json_response, metrics
from serving.local_server.model_store import ModelStore
from serving.local_server.status import HTTP_STATUS, invalid, reported

# Words of the path in any case, but the verb in lower case.
_SPEC = "([^/:]+)(?:/(?i:versions)/([0-9]+)|/(?i:labels)/([^/:]+))?"
_INFERENCE = re.compile(f"(?i:/v1/models)/{_SPEC}:(classify|regress|predict)")
_ABOUT = re.compile(f"(?i:/v1/models)(?:/{_SPEC})?(/(?i:metadata))?")
# Bytes of a body as it comes; TF Serving sets none. Unpacked, a gzipped body has TF Serving's.
_MAX_BODY = 256 << 20
_MAX_UNPACKED = 100 << 20
# Seconds that a client may take to send a request, and may say nothing between two.
_BODY_TIMEOUT = 300
_IDLE_TIMEOUT = 600

_JSON = "application/json"


class RestServer:
    """A server that listens, until it is drained. To be made and used in a running event loop.

    Args:
        store: the models.
        address: host and port.
        max_threads: requests that run at the same time; others wait.
        timeout: of a run, seconds.
        ssl_context: for TLS, or None.
        metrics_path: where Prometheus finds its metrics, or None for nowhere.

    Raises:
        UserError: the address cannot be listened on.
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
                f"cannot listen on {host}:{port} for REST ({error}); give another --rest_api_port or --host."
            ) from error

    async def drain(self, seconds: float) -> None:
        """Takes no new connections, and waits for the requests that run."""
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
        # Status and metrics are asked for most when all threads are busy with predictions.
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
        try:
            head = httputil.ResponseStartLine("HTTP/1.1", status, reason)
            # Without a future for each write: what the client does not wait for, nobody waits for.
            request.connection.write_headers(
                head, headers, b"" if request.method == "HEAD" else body
            )
            request.connection.finish()
        except Exception as error:
            logging.debug("the client is gone: %s", error)

    def _respond(self, request: httputil.HTTPServerRequest) -> tuple[int, str, str]:
        """Status, content type and body; raises what went wrong. In a thread."""
        path = request.uri or ""
        if self._metrics_path and path.partition("?")[0] == self._metrics_path:
            if path != self._metrics_path:
                return 400, "text/plain", "Unsupported query string\n"
            return 200, "text/plain", metrics.page()
        if not path.lower().startswith("/v1/"):
            return 404, "text/html", _NOT_FOUND
        if request.method == "OPTIONS":
            # Without CORS, which is off in TF Serving too: no headers, only the code.
            origin = request.headers.get("Origin", "")
            return (200 if re.search("https?://", origin) else 400), _JSON, ""
        return 200, _JSON, self._call(request, path)

    def _call(self, request: httputil.HTTPServerRequest, path: str) -> str:
        if request.method == "POST" and (match := _INFERENCE.fullmatch(path)):
            *spec, method = match.groups()
            spec = _model_spec(*spec)
            with calls.Counted(self._store, spec.name, method, "REST"):
                document = json_request.parse(_body(request))
                spec.signature_name = document.get("signature_name", "")
                if method == "predict":
                    return self._predict(spec, document)
                json_examples.check(document)
                return self._one_shot(spec, method)
        if request.method == "GET" and (match := _ABOUT.fullmatch(path)):
            name, version, label, metadata = match.groups()
            if not name:
                raise invalid("Missing model name in request.")
            spec = _model_spec(name, version, label)
            with calls.Counted(self._store, spec.name, "", "REST"):
                return (
                    self._metadata(spec) if metadata else _as_json(self._store.status(spec)) + "\n"
                )
        raise invalid(f"Malformed request: {request.method} {path}")

    def _predict(self, spec: model_pb2.ModelSpec, document: dict) -> str:
        name = spec.signature_name or "serving_default"
        with self._store.use(spec) as version:
            signature = version.servable.signature(name)
            if signature is None:
                raise invalid(f'Serving signature name: "{name}" not found in signature def')
            if not signature.inputs:
                raise invalid(
                    f"Failed to get input map for signature: {spec.signature_name or 'DEFAULT'}"
                )
            inputs, by_row = json_request.to_tensors(document, signature.inputs)
            begin = time.perf_counter()
            outputs = version.servable.run(name, inputs, timeout=self._timeout)
            calls.observe_run(spec.name, begin)
        return json_response.rows(outputs) if by_row else json_response.columns(outputs)

    def _one_shot(self, spec: model_pb2.ModelSpec, method: str) -> str:
        if method == "classify":
            request = classification_pb2.ClassificationRequest(model_spec=spec)
            call = calls.classify
        else:
            request = regression_pb2.RegressionRequest(model_spec=spec)
            call = calls.regress
        request.input.example_list.examples.add()  # As many as were read; only whether there are any counts.
        return call(self._store, request, self._timeout)

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
        return b""  # For which TF Serving takes what it cannot unpack.
    return body if unpacker.eof else b""


def _as_json(message) -> str:
    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, including_default_value_fields=True, indent=1
    )


_NOT_FOUND = "<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n</BODY></HTML>\n"

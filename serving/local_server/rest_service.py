"""The REST side on Tornado: reads requests, answers them in time, and bounds what they cost.

Tornado reads requests on the event loop, so that slow clients hold no thread; JSON is parsed and
predictions run in a pool of threads.
"""

import asyncio
import ssl
import time
from concurrent import futures

from absl import logging
from tornado import http1connection, httputil

from serving.errors import UserError
from serving.local_server import json_response
from serving.local_server.cancellation import Cancellation
from serving.local_server.connection_limit import connection_limit
from serving.local_server.http_connections import HttpConnections
from serving.local_server.model_store import ModelStore
from serving.local_server.request_memory import MAX_BODY, RequestBody, RequestMemory, TooLarge
from serving.local_server.rest_calls import JSON, RestCalls
from serving.local_server.status import HTTP_STATUS, Code, StatusError, reported

# Seconds that a client may be silent before a request, and take to send its head.
_HEAD_TIMEOUT = 60
# Seconds that a client may take to send a body or to receive a response: those, and as many as the
# slowest client needs that we wait for.
_BODY_TIMEOUT = 30
_SLOWEST = 128 << 10  # Bytes per second.
# Seconds for which the rest of a refused body is read, so that its client can read the answer: a
# connection that is closed with unread data is reset.
_LINGER = 5


class RestServer:
    """A REST server that listens until it is drained; made and used in a running event loop.

    Args:
        store: Store of the models.
        address: Host and port to listen on.
        max_threads: Requests that run at the same time; others wait.
        timeout: Seconds from the arrival of a request until its answer.
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
        self._calls = RestCalls(store, metrics_path)
        self._timeout = timeout
        self._pool = futures.ThreadPoolExecutor(max_threads, "rest")
        # Status and metrics matter most when all threads of the pool are busy.
        self._reports = futures.ThreadPoolExecutor(2, "rest report")
        self._running: set[asyncio.Task] = set()
        self.memory = RequestMemory()
        self.draining = False
        parameters = http1connection.HTTP1ConnectionParameters(
            header_timeout=_HEAD_TIMEOUT,
            max_body_size=MAX_BODY,
            body_timeout=_BODY_TIMEOUT + MAX_BODY / _SLOWEST,
        )
        try:
            self.connections = HttpConnections(
                address,
                connection_limit(),
                lambda connection: _Exchange(self, connection),
                parameters,
                ssl_context,
            )
        except OSError as error:
            host, port = address
            raise UserError(
                f"cannot listen on {host}:{port} for REST ({error}); "
                "give another --rest_api_port or --host."
            ) from error

    async def drain(self, seconds: float) -> None:
        """Refuses new connections and waits up to `seconds` for running requests."""
        self.draining = True
        self.connections.stop()
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)
        await self.connections.close()
        for pool in (self._pool, self._reports):
            pool.shutdown(wait=False, cancel_futures=True)

    def start(self, exchange: "_Exchange") -> None:
        """Begins to answer a request that has arrived."""
        task = asyncio.get_running_loop().create_task(self._answer(exchange))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _answer(self, exchange: "_Exchange") -> None:
        request, body = exchange.request, exchange.body
        pool = self._pool if request.method == "POST" else self._reports
        end = time.monotonic() + self._timeout
        cancellation = Cancellation()
        work = pool.submit(self._calls.respond, request, body, end, cancellation)
        # Not before: an operation may go on for long after its client has got an answer.
        work.add_done_callback(lambda _: self.memory.give_back(body))

        def abandon(code: Code = Code.CANCELLED) -> None:
            if not work.cancel():  # A thread has begun with it. Cancelling waits for TensorFlow.
                asyncio.get_running_loop().run_in_executor(None, cancellation.cancel, code)

        exchange.on_close(abandon)
        answer = asyncio.wrap_future(work)
        await asyncio.wait([answer], timeout=self._timeout)
        if answer.cancelled():
            return  # The client has gone, and the request was still waiting for a thread.
        try:
            if not answer.done():
                abandon(Code.DEADLINE_EXCEEDED)
                answer.cancel()
                raise StatusError(Code.DEADLINE_EXCEEDED, "Timed out waiting for notification")
            exchange.send(*answer.result())
        except Exception as error:
            exchange.send_error(error)


class _Exchange(httputil.HTTPMessageDelegate):
    """One request and its response."""

    # Set when the head has arrived.
    request: httputil.HTTPServerRequest
    body: RequestBody

    def __init__(self, server: RestServer, connection: http1connection.HTTP1Connection):
        self._server = server
        self._connection = connection
        self._stream = connection.stream
        self._loop = asyncio.get_running_loop()
        self._refused = False

    # Tornado calls these.

    def headers_received(self, start_line, headers: httputil.HTTPHeaders) -> None:
        self._server.connections.heard(self._stream)
        self.body = self._server.memory.begin(self._refuse_soon)
        self.request = httputil.HTTPServerRequest(
            connection=self._connection, start_line=start_line, headers=headers
        )
        self._packed = "gzip" in headers.get("Content-Encoding", "")
        length = headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            return  # Tornado reads chunks up to the maximum, or refuses the length.
        if len(length) > 18 or int(length) > MAX_BODY:
            self._connection.set_max_body_size(2**63)  # Else Tornado would add an answer.
            self._refuse(TooLarge(f"The body of the request has more than {MAX_BODY >> 20} MiB."))
        else:
            self._connection.set_body_timeout(_BODY_TIMEOUT + int(length) / _SLOWEST)

    def data_received(self, chunk: bytes) -> None:
        if self._refused:
            return
        try:
            self.body.add(chunk, self._packed)
        except StatusError as error:
            self._refuse(error)

    def finish(self) -> None:
        if self._refused:
            self._connection.finish()
        elif self._server.memory.arrived(self.body):
            self._server.start(self)

    def on_connection_close(self) -> None:
        self._server.memory.give_back(self.body)

    # The server calls these.

    def on_close(self, callback) -> None:
        """Has `callback` called if the client goes away before it has its response."""
        self._connection.set_close_callback(callback)

    def send(self, status: int, kind: str, text: str) -> None:
        """Sends the response."""
        self._write(status, kind, text)
        if not self._stream.closed():
            self._connection.finish()

    def send_error(self, error: Exception) -> None:
        """Sends an error as the response."""
        self.send(*_described(error))

    def _refuse_soon(self, error: StatusError) -> None:
        self._loop.call_soon_threadsafe(self._refuse, error)

    def _refuse(self, error: StatusError) -> None:
        """Answers before the body has arrived, of which no more is kept."""
        self._server.memory.give_back(self.body)
        if self._refused or self._stream.closed():
            return
        self._refused = True
        self._write(*_described(error), last=True)
        if "Expect" in self.request.headers:
            self._connection.finish()  # The client waits before it sends the body.
        else:
            self._loop.call_later(_LINGER, self._stream.close)

    def _write(self, status: int, kind: str, text: str, last: bool = False) -> None:
        body = text.encode("utf-8", "backslashreplace")
        reason = httputil.responses.get(status, "Unknown")
        headers = httputil.HTTPHeaders({"Content-Type": kind, "Content-Length": str(len(body))})
        headers["Date"] = httputil.format_timestamp(time.time())
        if last or self._server.draining:
            headers["Connection"] = "close"
        head = httputil.ResponseStartLine("HTTP/1.1", status, reason)
        content = b"" if self.request.method == "HEAD" else body
        try:
            written = self._connection.write_headers(head, headers, content)
        except Exception as error:
            logging.debug("the client is gone: %s", error)
            return
        # A client that does not read its response must not keep it, and the connection, for ever.
        seconds = _BODY_TIMEOUT + len(body) / _SLOWEST
        timer = self._loop.call_later(seconds, self._stream.close)
        written.add_done_callback(lambda _: timer.cancel())


def _described(error: Exception) -> tuple[int, str, str]:
    """Returns status, content type and text of an error; logs it if it is a bug."""
    failure = reported(error)
    status = 413 if isinstance(failure, TooLarge) else HTTP_STATUS.get(failure.code, 500)
    return status, JSON, json_response.error(failure.message)

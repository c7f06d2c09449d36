"""Accepts the REST side's connections: a bounded number, whatever strangers open.

When the limit is reached, the connection that has waited longest without a complete head of a
request makes room for a new one. If all are busy, new ones wait in the system's queue.
"""

import asyncio
import errno
import socket
import ssl
import time
from collections.abc import Callable
from types import SimpleNamespace

from absl import logging
from tornado import http1connection, httputil, iostream, netutil

# Connections accepted in a row before other work gets its turn.
_IN_A_ROW = 32
# Seconds before another try to accept when the process or the system has no descriptor left, and
# between two lines in the log about it.
_RETRY_SECONDS = 1.0
_LOG_SECONDS = 60.0
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class HttpConnections(httputil.HTTPServerConnectionDelegate):
    """Connections of an HTTP server, open until `close`; made and used in a running event loop.

    Args:
        address: Host and port to listen on.
        limit: Maximum number of connections.
        begin: Called with an `HTTP1Connection` for each request; returns the delegate that gets
            its head and body. `heard` must be called when the head has arrived.
        parameters: Limits of sizes and times.
        ssl_context: Context for TLS, or None for plain text.

    Raises:
        OSError: The address cannot be listened on.
    """

    def __init__(
        self,
        address: tuple[str, int],
        limit: int,
        begin: Callable[[http1connection.HTTP1Connection], httputil.HTTPMessageDelegate],
        parameters: http1connection.HTTP1ConnectionParameters,
        ssl_context: ssl.SSLContext | None = None,
    ):
        self._limit = limit
        self._begin = begin
        self._parameters = parameters
        self._ssl_context = ssl_context
        self._open: set[http1connection.HTTP1ServerConnection] = set()
        # Streams of which no head of a request has arrived, in order of waiting.
        self._waiting: dict[iostream.IOStream, None] = {}
        self._last_logged = -_LOG_SECONDS
        self._paused = False
        self._loop = asyncio.get_running_loop()
        host, port = address
        self._sockets = netutil.bind_sockets(port, host)
        for listening in self._sockets:
            self._loop.add_reader(listening, self._accept, listening)

    def stop(self) -> None:
        """Stops to listen; open connections stay."""
        for listening in self._sockets:
            self._loop.remove_reader(listening)
            listening.close()
        self._sockets = []

    async def close(self) -> None:
        """Closes all connections and waits until they are."""
        while self._open:
            await next(iter(self._open)).close()

    def heard(self, stream: iostream.IOStream) -> None:
        """Notes that the head of a request has arrived, so that the connection is busy."""
        self._waiting.pop(stream, None)

    def start_request(
        self, server_conn: object, request_conn: httputil.HTTPConnection
    ) -> httputil.HTTPMessageDelegate:
        """Called by Tornado when a connection waits for a request, its first or the next."""
        assert isinstance(request_conn, http1connection.HTTP1Connection)
        self._waiting[request_conn.stream] = None
        if self._paused:
            self._resume()
        return self._begin(request_conn)

    def on_close(self, server_conn: object) -> None:
        """Called by Tornado when a connection is closed."""
        assert isinstance(server_conn, http1connection.HTTP1ServerConnection)
        self._open.discard(server_conn)
        self._waiting.pop(server_conn.stream, None)
        if self._paused:
            self._resume()

    def _accept(self, listening: socket.socket) -> None:
        if len(self._open) >= self._limit:
            if self._waiting:
                next(iter(self._waiting)).close()
            self._pause()  # Until on_close.
            return
        for _ in range(min(_IN_A_ROW, self._limit - len(self._open))):
            try:
                connection, address = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_DESCRIPTOR:
                    raise
                self._complain(error)
                self._pause()
                self._loop.call_later(_RETRY_SECONDS, self._resume)
                return
            try:
                self._serve(connection, address)
            except OSError as error:  # The client has gone already.
                logging.debug("a connection from %s failed: %s", address, error)
                connection.close()

    def _serve(self, connection: socket.socket, address: tuple) -> None:
        connection.setblocking(False)
        stream: iostream.IOStream
        if self._ssl_context:
            secure = netutil.ssl_wrap_socket(
                connection, self._ssl_context, server_side=True, do_handshake_on_connect=False
            )
            stream = iostream.SSLIOStream(secure)
        else:
            stream = iostream.IOStream(connection)
        protocol = "https" if self._ssl_context else "http"
        context = SimpleNamespace(remote_ip=address[0], protocol=protocol)
        served = http1connection.HTTP1ServerConnection(stream, self._parameters, context)
        self._open.add(served)
        served.start_serving(self)

    def _pause(self) -> None:
        self._paused = True
        for listening in self._sockets:
            self._loop.remove_reader(listening)

    def _resume(self) -> None:
        self._paused = False
        for listening in self._sockets:
            self._loop.add_reader(listening, self._accept, listening)

    def _complain(self, error: OSError) -> None:
        now = time.monotonic()
        if now - self._last_logged >= _LOG_SECONDS:
            self._last_logged = now
            logging.error(
                "cannot accept a REST connection: %s; trying again every %.0f s",
                error.strerror,
                _RETRY_SECONDS,
            )

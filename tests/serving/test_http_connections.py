"""The REST side's connections, in this process: the limit, and no descriptor left."""

import asyncio
import contextlib
import errno
import socket

import pytest
from tornado import http1connection, httputil

from serving.local_server import http_connections
from serving.local_server.http_connections import HttpConnections

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Exchange(httputil.HTTPMessageDelegate):
    """Answers every request with 204, but for /busy, which never gets an answer."""

    def __init__(self, served, connection):
        self.served, self.connection = served, connection

    def headers_received(self, start_line, headers):
        self.served.heard(self.connection.stream)
        self.path = start_line.path

    def finish(self):
        if self.path != "/busy":
            start_line = httputil.ResponseStartLine("HTTP/1.1", 204, "No Content")
            self.connection.write_headers(start_line, httputil.HTTPHeaders())
            self.connection.finish()


@contextlib.asynccontextmanager
async def serving(limit):
    """Yields a function that opens a connection and sends bytes over it."""
    parameters = http1connection.HTTP1ConnectionParameters(header_timeout=60)
    served = HttpConnections(
        ("127.0.0.1", 0), limit, lambda connection: Exchange(served, connection), parameters
    )
    port = served._sockets[0].getsockname()[1]
    writers = []

    async def connect(sent=b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        writer.write(sent)
        await asyncio.sleep(0.05)
        return reader, writer

    try:
        yield connect
    finally:
        served.stop()
        await served.close()
        for writer in writers:
            writer.close()


async def answered(reader):
    return (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).startswith(b"HTTP/1.1 204 ")


def test_the_connection_that_has_waited_longest_makes_room():
    async def check():
        async with serving(limit=3) as connect:
            busy, _ = await connect(GET.replace(b"/ ", b"/busy "))
            silent, _ = await connect()
            slow, writer = await connect(GET[:8])
            new, _ = await connect(GET)
            assert await answered(new)
            assert await asyncio.wait_for(silent.read(), 10) == b""
            writer.write(GET[8:])
            assert await answered(slow)
            assert not busy.at_eof()

    asyncio.run(check())


def test_new_connections_wait_while_all_are_busy():
    async def check():
        async with serving(limit=2) as connect:
            _, writer = await connect(GET.replace(b"/ ", b"/busy "))
            await connect(GET.replace(b"/ ", b"/busy "))
            new, _ = await connect(GET)
            reading = asyncio.create_task(answered(new))
            await asyncio.sleep(0.5)
            assert not reading.done()
            writer.close()
            assert await reading

    asyncio.run(check())


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_without_a_descriptor_it_tries_again_and_logs_one_line(monkeypatch, caplog, number):
    tries = []
    accept = socket.socket.accept

    def refuse(self):
        tries.append(number)
        if len(tries) <= 3:
            raise OSError(number, "no descriptor")
        return accept(self)

    monkeypatch.setattr(http_connections, "_RETRY_SECONDS", 0.2)
    lines = []
    monkeypatch.setattr(http_connections.logging, "error", lambda *line: lines.append(line))

    async def check():
        async with serving(limit=5) as connect:
            monkeypatch.setattr(socket.socket, "accept", refuse)
            new, _ = await connect(GET)
            assert await answered(new)

    asyncio.run(check())
    assert len(lines) == 1 and len(tries) < 20

"""The REST server and clients that do not wait for their answer, or get it too late."""

import asyncio
import json
import socket
import struct
import threading
import time

import pytest
import requests
from serve import Server, free_port

from serving.local_server import rest_service
from serving.local_server.rest_service import RestServer
from serving.local_server.status import Code

PATH = "/v1/models/echo:predict"
SLOW = {"signature_name": "slow", "instances": [600.0]}


@pytest.fixture(scope="module")
def one_thread(models_dir, tmp_path_factory):
    """`byol-serve` with one thread for REST, on which requests have ten minutes."""
    folder = tmp_path_factory.mktemp("one_thread")
    (folder / "monitoring.config").write_text("prometheus_config { enable: true }")
    flags = (
        "--model_name=echo",
        f"--model_base_path={models_dir}/echo",
        f"--monitoring_config_file={folder}/monitoring.config",
        "--rest_api_num_threads=1",
        "--rest_api_timeout_in_ms=600000",
    )
    with Server(folder / "log", *flags) as running:
        yield running


def send(server, document):
    """Sends a prediction over a new connection and returns its socket."""
    body = json.dumps(document).encode()
    connection = socket.create_connection(("127.0.0.1", server.rest_port), timeout=60)
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def count(server, status):
    """Returns how many requests ended with that status, by the server's metrics."""
    page = requests.get(f"{server.url}/monitoring/prometheus/metrics", timeout=60).text
    name = f':tensorflow:serving:request_count{{model_name="echo",status="{status}"}}'
    return sum(int(line.split()[-1]) for line in page.splitlines() if line.startswith(name))


@pytest.mark.parametrize("seconds", [1.0, 0.0])
@pytest.mark.parametrize("reset", [False, True])
def test_a_prediction_stops_when_its_client_closes_the_connection(one_thread, seconds, reset):
    before = count(one_thread, "CANCELLED")
    connection = send(one_thread, SLOW)
    time.sleep(seconds)
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    answer = requests.post(one_thread.url + PATH, json={"instances": [1.5]}, timeout=60)
    assert answer.json() == {"predictions": [1.5]}
    # Of one that closes at once, the server may not even have taken up the request.
    assert count(one_thread, "CANCELLED") - before in ({1} if seconds else {0, 1})
    assert "Traceback" not in one_thread.log.read_text()


def test_a_prediction_stops_when_its_client_has_got_504(monkeypatch):
    """The model's own deadline may come later, for example after a large request was parsed."""
    codes = []

    class Calls:
        def __init__(self, *unused):
            pass

        def respond(self, request, body, end, cancellation):
            stopped = threading.Event()
            with cancellation.stopping(stopped.set):
                assert stopped.wait(60)
            with pytest.raises(Exception) as caught, cancellation.stopping(stopped.set):
                pass
            codes.append(caught.value.code)

    monkeypatch.setattr(rest_service, "RestCalls", Calls)
    port = free_port()

    async def check():
        server = RestServer(None, ("127.0.0.1", port), max_threads=1, timeout=1.0)
        url = f"http://127.0.0.1:{port}{PATH}"
        answer = await asyncio.to_thread(requests.post, url, json={}, timeout=60)
        await server.drain(0)
        assert answer.status_code == 504

    asyncio.run(check())
    end = time.monotonic() + 30
    while not codes and time.monotonic() < end:
        time.sleep(0.01)
    assert codes == [Code.DEADLINE_EXCEEDED]

"""A real `byol-serve` with few descriptors, and strangers who send bombs and hold connections."""

import contextlib
import gzip
import os
import resource
import socket
import threading
import time

import grpc
import pytest
import requests
import servable_models
import tensorflow as tf
from serve import Server
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

pytestmark = pytest.mark.slow
ECHO = "/v1/models/echo:predict"
DESCRIPTORS = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("strangers")


def save_reader(path):
    module = tf.Module()
    module.read = tf.function(
        lambda names: {"content": tf.map_fn(tf.io.read_file, names)},
        input_signature=[tf.TensorSpec([None], tf.string, "names")],
    )
    tf.saved_model.save(module, str(path), signatures=module.read)


@pytest.fixture(scope="module")
def server(folder, models_dir):
    """A server of echo, and of half_plus in a folder of its own, that may open 400 files."""
    servable_models.save_half_plus(folder / "half_plus" / "1", 1.0)
    save_reader(folder / "reader" / "1")
    (folder / "models.config").write_text(
        "model_config_list {"
        f'config {{ name: "reader" base_path: "{folder}/reader" model_platform: "tensorflow" }}'
        f'config {{ name: "echo" base_path: "{models_dir}/echo" model_platform: "tensorflow" }}'
        f'config {{ name: "half_plus" base_path: "{folder}/half_plus" '
        'model_platform: "tensorflow" } }'
    )
    flags = (
        f"--model_config_file={folder}/models.config",
        "--file_system_poll_wait_seconds=0.1",
        "--max_num_load_retries=0",
        "--rest_api_timeout_in_ms=2000",
    )
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, limits[1]))
    try:
        running = Server(folder / "log", *flags)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    with running:
        yield running


def memory(server):
    """Returns resident and peak memory of the server's process in MiB."""
    with open(f"/proc/{server.process.pid}/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return tuple(int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))


def post(server, body, encoding=None):
    headers = {"Content-Encoding": encoding}  # None sends no such header.
    return requests.post(server.url + ECHO, data=body, headers=headers, timeout=60)


def assert_answers(server):
    body = {"instances": [1.0]}
    answer = requests.post(server.url + ECHO, json=body, timeout=20)
    assert answer.json() == {"predictions": [1.0]}
    with grpc.insecure_channel(server.address) as channel:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "echo"
        request.inputs["value"].CopyFrom(tf.make_tensor_proto([1.0]))
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert stub.Predict(request, timeout=20, wait_for_ready=True)


class Watch(threading.Thread):
    """Asks for the status again and again; `longest` is the longest answer in seconds."""

    def __init__(self, server):
        super().__init__()
        self.url = f"{server.url}/v1/models/echo"
        self.longest = 0.0
        self.done = threading.Event()

    def run(self):
        while not self.done.wait(0.02):
            begin = time.monotonic()
            assert requests.get(self.url, timeout=60).status_code == 200
            self.longest = max(self.longest, time.monotonic() - begin)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *unused):
        self.done.set()
        self.join()


@pytest.mark.parametrize("value", [b"[],", b"[[]],", b'{"a":{}},', b'"ab",', b"1000,"])
@pytest.mark.parametrize("packed", [True, False])
def test_json_bombs_are_refused_in_little_memory_and_time(server, value, packed):
    size = (90 if packed else 40) << 20
    body = b'{"instances":[' + value * (size // len(value))
    before = memory(server)[1]
    with Watch(server) as watch:
        answer = post(server, gzip.compress(body, 1), "gzip") if packed else post(server, body)
    assert answer.status_code == 413
    assert "would take more than 512 MiB of memory; send fewer" in answer.json()["error"]
    assert memory(server)[1] - before < 300
    assert watch.longest < 5


def test_the_largest_request_takes_no_more_memory_than_it_is_charged_for(server):
    body = b'{"instances":[' + b",".join([b"[[]]"] * 1_900_000) + b"]}"
    before = memory(server)[0]
    with Watch(server) as watch:
        answer = post(server, body)
    assert answer.status_code in (200, 504)
    assert memory(server)[1] - before < 1024
    assert watch.longest < 5


def test_bodies_in_flight_take_bounded_memory_together(server):
    size = 90 << 20
    head = f"POST {ECHO} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()
    before = memory(server)[1]
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(6):
            connection = stack.enter_context(
                socket.create_connection(("127.0.0.1", server.rest_port), timeout=30)
            )
            connection.sendall(head)
            for _ in range(60):
                with contextlib.suppress(OSError):  # A refused one is closed after a while.
                    connection.sendall(b" " * (1 << 20))
            connections.append(connection)
            assert_answers(server)
        refused = 0
        for connection in connections:
            connection.settimeout(0.5)
            with contextlib.suppress(OSError):
                refused += connection.recv(100).startswith(b"HTTP/1.1 503 ")
        assert refused >= 2
        assert memory(server)[1] - before < 600
    assert_answers(server)


def test_an_answer_comes_in_time_though_the_operation_goes_on(server, folder):
    os.mkfifo(folder / "pipe")  # Nothing ends ReadFile before somebody writes to it.
    body = {"instances": [str(folder / "pipe")]}
    begin = time.monotonic()
    answer = requests.post(f"{server.url}/v1/models/reader:predict", json=body, timeout=60)
    assert answer.status_code == 504
    assert "Timed out waiting for notification" in answer.json()["error"]
    assert 1.5 < time.monotonic() - begin < 10
    assert_answers(server)
    with contextlib.suppress(BrokenPipeError), open(folder / "pipe", "w") as pipe:
        pipe.write("x")  # The operation opens the pipe and closes it again: its size is 0.


@pytest.mark.parametrize("sent", [b"", b"GET /v1/models/echo HT"])
def test_idle_connections_keep_nobody_out(server, sent):
    with contextlib.ExitStack() as stack:
        for port in (server.rest_port, server.port):
            for _ in range(DESCRIPTORS + 50):
                connection = socket.create_connection(("127.0.0.1", port), timeout=20)
                stack.enter_context(connection)
                with contextlib.suppress(OSError):
                    connection.sendall(sent)
        # gRPC refuses new connections meanwhile; REST closes old ones for them.
        for _ in range(5):
            answer = requests.post(server.url + ECHO, json={"instances": [1.0]}, timeout=20)
            assert answer.status_code == 200
        assert len(os.listdir(f"/proc/{server.process.pid}/fd")) < DESCRIPTORS - 20
    assert_answers(server)
    assert "Traceback" not in server.log.read_text() and server.log.stat().st_size < 200_000


def states(server, model):
    ask = get_model_status_pb2.GetModelStatusRequest()
    ask.model_spec.name = model
    with grpc.insecure_channel(server.address) as channel:
        answer = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(ask)
    return {v.version: (v.state, v.status.error_message) for v in answer.model_version_status}


def linked_to_itself(path):
    servable_models.save_half_plus(path, 2.0)
    for name in ("a", "b", "c"):
        (path / name).symlink_to(".")


def linked_to_nothing_but_itself(path):
    path.symlink_to(path.name)


def with_a_pipe(path):
    path.mkdir()
    os.mkfifo(path / "saved_model.pb")


def a_file(path):
    path.write_text("no folder")


def with_a_dangling_link(path):
    servable_models.save_half_plus(path, 2.0)
    (path / "assets" / "labels.txt").symlink_to("nowhere")


def test_bad_folders_are_reported_and_good_ones_load(server, folder):
    bad = {
        2: (linked_to_itself, "a link to a folder that contains it"),
        3: (linked_to_nothing_but_itself, "symbolic links"),
        4: (with_a_pipe, "saved_model.pb of the model: it is not a regular file"),
        5: (a_file, "Not a directory"),
        6: (with_a_dangling_link, "No such file"),
    }
    end = time.monotonic() + 90
    for number, (make, message) in bad.items():
        make(folder / "half_plus" / str(number))
        while states(server, "half_plus").get(number, (0, ""))[0] != 50:
            assert time.monotonic() < end
            time.sleep(0.1)
        assert message in states(server, "half_plus")[number][1]
        assert states(server, "half_plus")[1][0] == 30
    servable_models.save_half_plus(folder / "half_plus" / "7", 7.0)
    while states(server, "half_plus").get(7, (0, ""))[0] != 30:
        assert time.monotonic() < end
        time.sleep(0.1)
    url = f"{server.url}/v1/models/half_plus:predict"
    assert requests.post(url, json={"instances": [0.0]}, timeout=20).json() == {"predictions": [7]}
    assert "Traceback" not in server.log.read_text()

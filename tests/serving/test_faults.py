"""A real `byol-serve` process under faults: swaps, corrupt versions, signals, hostile clients."""

import contextlib
import json
import os
import shutil
import signal
import socket
import threading
import time
import zlib

import grpc
import numpy as np
import pytest
import requests
import servable_models
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc
from pictures import png_claiming
from serve import Server
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from serving.client import EmbeddingClient

pytestmark = pytest.mark.slow
START, LOADING, AVAILABLE, END = 10, 20, 30, 50


def request(model, value, name="x", signature="", version=None):
    result = predict_pb2.PredictRequest()
    result.model_spec.name, result.model_spec.signature_name = model, signature
    if version is not None:
        result.model_spec.version.value = version
    result.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return result


def states(channel, model):
    """Returns (state, error message) by version, highest first."""
    ask = get_model_status_pb2.GetModelStatusRequest()
    ask.model_spec.name = model
    answer = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(ask)
    return {v.version: (v.state, v.status.error_message) for v in answer.model_version_status}


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"no success within {seconds} s"
        time.sleep(0.02)


def wait_for_state(channel, model, version, state):
    wait_for(lambda: states(channel, model).get(version, (0,))[0] == state)


def memory(server):
    """Returns resident and peak memory of the server's process in MiB."""
    with open(f"/proc/{server.process.pid}/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return tuple(int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def faulty(folder, encoder_dir, models_dir):
    """A server of models that tests change (swapped, corrupt, copied), and of byol and echo."""
    for name in ("swapped", "corrupt", "copied"):
        servable_models.save_half_plus(folder / name / "1", 1.0)
    paths = {name: folder / name for name in ("swapped", "corrupt", "copied")}
    paths |= {"byol": encoder_dir, "echo": models_dir / "echo"}
    entries = "".join(
        f'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" }}\n'
        for name, path in paths.items()
    )
    (folder / "models.config").write_text(f"model_config_list {{ {entries} }}")
    flags = (
        f"--model_config_file={folder}/models.config",
        "--file_system_poll_wait_seconds=0.1",
        "--max_num_load_retries=1",
        "--load_retry_interval_micros=200000",
        "--enable_batching",
        "--enable_grpc_reflection",
    )
    with Server(folder / "log", *flags) as server:
        yield server


@pytest.fixture(scope="module")
def faulty_channel(faulty):
    with grpc.insecure_channel(faulty.address) as channel:
        yield channel


def test_fifty_swaps_under_load_fail_no_request(faulty, faulty_channel, folder):
    staged = folder / "staged"
    for number in range(2, 52):  # b is the version's number: an answer tells who gave it.
        servable_models.save_half_plus(staged / str(number), float(number))
    stop, failures, answers = threading.Event(), [], []

    def over_grpc():
        with grpc.insecure_channel(
            faulty.address, [("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while not stop.wait(0.002):  # Clients, not a contest for the cores.
                try:
                    answer = stub.Predict(request("swapped", [4.0]), timeout=30)
                    answers.append(
                        (answer.model_spec.version.value, answer.outputs["y"].float_val[0])
                    )
                except grpc.RpcError as error:
                    failures.append(error)

    def over_rest():
        with requests.Session() as session:
            while not stop.wait(0.002):
                try:
                    url = f"{faulty.url}/v1/models/swapped:predict"
                    answer = session.post(url, json={"instances": [4.0]}, timeout=30)
                    if answer.status_code != 200:
                        failures.append(answer.text)
                except requests.RequestException as error:
                    failures.append(error)

    threads = [
        threading.Thread(target=target) for target in (over_grpc, over_grpc, over_grpc, over_rest)
    ]
    for thread in threads:
        thread.start()
    try:
        for number in range(2, 52):
            os.rename(staged / str(number), folder / "swapped" / str(number))
            wait_for_state(faulty_channel, "swapped", number, AVAILABLE)
            wait_for_state(faulty_channel, "swapped", number - 1, END)
            shutil.rmtree(folder / "swapped" / str(number - 1))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert {version for version, _ in answers} >= set(range(2, 52))
    assert all(value == 2 + version for version, value in answers)
    assert list(states(faulty_channel, "swapped")) == list(range(51, 0, -1))


def truncated(path):
    data = path / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-3])


def flipped(path):
    data = path / "variables" / "variables.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[0] ^= 1
    data.write_bytes(content)


def garbage(path):
    (path / "saved_model.pb").write_bytes(b"this is no graph")


def missing(path):
    (path / "saved_model.pb").unlink()


def refused_warmup(path):
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(request("corrupt", ["text"]))
    (path / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(path / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())


@pytest.mark.parametrize(
    ("number", "damage", "message"),
    [
        (11, truncated, "less bytes than requested"),
        (12, flipped, "hecksum"),
        (13, garbage, "parse"),
        (14, missing, "Could not find SavedModel .pb"),
        (15, refused_warmup, "Expects arg[0] to be float but string is provided"),
    ],
)
def test_a_corrupt_version_is_refused_and_the_old_one_serves_on(
    faulty, faulty_channel, folder, number, damage, message
):
    staged = folder / f"damaged{number}"
    servable_models.save_half_plus(staged, float(number))
    damage(staged)
    staged.rename(folder / "corrupt" / str(number))
    stub = prediction_service_pb2_grpc.PredictionServiceStub(faulty_channel)

    def given_up():
        assert stub.Predict(request("corrupt", [4.0])).model_spec.version.value == 1
        return states(faulty_channel, "corrupt").get(number, (0,))[0] == END

    wait_for(given_up)
    assert message in states(faulty_channel, "corrupt")[number][1]
    assert states(faulty_channel, "corrupt")[1] == (AVAILABLE, "")
    status = requests.get(f"{faulty.url}/v1/models/corrupt").json()["model_version_status"][0]
    assert status["version"] == str(number) and status["state"] == "END"
    assert status["status"]["error_code"] != "OK" and message in status["status"]["error_message"]


def test_a_good_version_replaces_the_old_one_after_all_that(faulty_channel, folder):
    servable_models.save_half_plus(folder / "good", 20.0)
    (folder / "good").rename(folder / "corrupt" / "20")
    wait_for_state(faulty_channel, "corrupt", 20, AVAILABLE)
    wait_for_state(faulty_channel, "corrupt", 1, END)


@pytest.mark.parametrize(
    ("number", "last"), [(2, "saved_model.pb"), (3, "variables.index"), (4, ".data-00000-of-00001")]
)
def test_a_version_that_is_being_copied_is_not_loaded(faulty_channel, folder, number, last):
    servable_models.save_half_plus(folder / f"source{number}", float(number))
    source = folder / f"source{number}"
    files = [file.relative_to(source) for file in source.rglob("*") if file.is_file()]
    files.sort(key=lambda file: file.name.endswith(last))
    target = folder / "copied" / str(number)
    for file in files:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        content = (source / file).read_bytes()
        with open(target / file, "wb") as copy:
            for start in range(0, len(content), max(1, len(content) // 2)):
                copy.write(content[start : start + max(1, len(content) // 2)])
                copy.flush()
                time.sleep(0.5)
                assert states(faulty_channel, "copied").get(number, (START, "")) == (START, "")
    wait_for_state(faulty_channel, "copied", number, AVAILABLE)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(faulty_channel)
    assert stub.Predict(request("copied", [4.0])).outputs["y"].float_val[0] == 2 + number


def test_image_bombs_are_refused_in_little_memory(faulty, faulty_channel):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(faulty_channel)
    before = memory(faulty)[1]
    for width, height in ((8193, 8193), (12_000, 12_000), (2**31 - 1, 1), (65_500, 65_500)):
        bomb = png_claiming(width, height, bytes(50_000_000))  # 50 kB that unpack to 50 MB.
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(request("byol", [bomb] * 20, "image_bytes"))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert memory(faulty)[1] - before < 200


@pytest.mark.parametrize(
    "shape", [[2**40], [2**31, 2**31], [1, 100_000, 100_000, 3], [2**62, 4], [-1], [3, -2]]
)
def test_tensors_that_claim_more_than_they_hold_are_refused(faulty, faulty_channel, shape):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(faulty_channel)
    bomb = request("echo", [1.0], "value")
    del bomb.inputs["value"].tensor_shape.dim[:]
    for size in shape:
        bomb.inputs["value"].tensor_shape.dim.add(size=size)
    before = memory(faulty)[1]
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(bomb)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "tensor parsing error: value" in caught.value.details()
    assert memory(faulty)[1] - before < 200


def test_clients_that_hang_keep_nobody_waiting(faulty, faulty_channel):
    with contextlib.ExitStack() as stack:

        def hang(port, *sent):
            for content in sent:
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                connection.sendall(content)

        head = b"POST /v1/models/echo:predict HTTP/1.1\r\nHost: x\r\n"
        for _ in range(50):
            hang(
                faulty.rest_port,
                b"",
                head[:20],
                head + b"Content-Length: 100000\r\n\r\n{",
                b"GET /v1/models/echo",
            )
            hang(faulty.port, b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x00\x00\x12\x04")

        def silence():
            stack_open.wait()
            return
            yield

        stack_open = threading.Event()
        stack.callback(stack_open.set)
        reflection = reflection_pb2_grpc.ServerReflectionStub(faulty_channel)
        health = health_pb2_grpc.HealthStub(faulty_channel)
        streams = [reflection.ServerReflectionInfo(silence()) for _ in range(20)]
        streams += [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(40)]
        stub = prediction_service_pb2_grpc.PredictionServiceStub(faulty_channel)
        for _ in range(20):
            assert stub.Predict(request("echo", [1.0], "value"), timeout=20)
            url = f"{faulty.url}/v1/models/echo:predict"
            assert requests.post(url, json={"instances": [1.0]}, timeout=20).status_code == 200
        for stream in streams:
            stream.cancel()


@pytest.fixture(scope="module")
def small(models_dir, folder):
    """A server of echo with two threads; the SIGTERM test, which uses it last, ends it."""
    flags = ("--model_name=echo", f"--model_base_path={models_dir}/echo")
    flags += ("--grpc_max_threads=2", "--rest_api_num_threads=2")
    with Server(folder / "small.log", *flags) as server:
        yield server


def test_a_busy_server_still_reports_its_state(small):
    with grpc.insecure_channel(small.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        busy = [stub.Predict.future(request("echo", [3.0], "seconds", "slow")) for _ in range(4)]
        body = {"signature_name": "slow", "inputs": [3.0]}
        posts = [
            threading.Thread(
                target=requests.post,
                args=(f"{small.url}/v1/models/echo:predict",),
                kwargs={"json": body},
            )
            for _ in range(4)
        ]
        for post in posts:
            post.start()
        time.sleep(0.5)
        begin = time.monotonic()
        assert states(channel, "echo") == {1: (AVAILABLE, "")}
        assert requests.get(f"{small.url}/v1/models/echo", timeout=5).status_code == 200
        assert time.monotonic() - begin < 5 and not busy[-1].done()
        for post in posts:
            post.join()
        assert [call.result().outputs["seconds"].float_val[0] for call in busy] == [3.0] * 4


def test_too_large_a_body_is_refused_without_being_read(faulty):
    head = (
        b"POST /v1/models/echo:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", faulty.rest_port), timeout=10) as connection:
        connection.sendall(head)
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_gzip_bomb_is_refused(faulty):
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(300)), packer.flush()])
    before = memory(faulty)[1]
    headers = {"Content-Encoding": "gzip"}
    answer = requests.post(
        f"{faulty.url}/v1/models/echo:predict", data=bomb, headers=headers, timeout=30
    )
    assert answer.status_code == 413 and "more than 100 MiB" in answer.json()["error"]
    assert memory(faulty)[1] - before < 300


def test_sigterm_lets_requests_finish_and_takes_no_new_ones(small):
    with grpc.insecure_channel(small.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        results = {}

        def over_rest():
            body = {"signature_name": "slow", "inputs": [5.0]}
            results["rest"] = requests.post(
                f"{small.url}/v1/models/echo:predict", json=body, timeout=30
            )

        thread = threading.Thread(target=over_rest)
        thread.start()
        running = stub.Predict.future(request("echo", [5.0], "seconds", "slow"))
        time.sleep(2)
        small.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not small.listens(), 2.5)
        assert running.result(timeout=30).outputs["seconds"].float_val == [5.0]
        thread.join()
        assert (
            results["rest"].status_code == 200 and results["rest"].headers["Connection"] == "close"
        )
        assert small.process.wait(20) == 0
        assert "Traceback" not in small.log.read_text()


@pytest.mark.exhaustive
def test_sigterm_ends_the_process_while_a_run_goes_on(models_dir, folder):
    flags = ("--model_name=echo", f"--model_base_path={models_dir}/echo", "--enable_batching")
    with Server(folder / "stuck.log", *flags) as server, grpc.insecure_channel(server.address) as c:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(c)
        # In a batch, which no cancellation stops.
        calls = [stub.Predict.future(request("echo", [600.0], "seconds", "slow")) for _ in range(2)]
        time.sleep(1)
        calls[0].cancel()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30 + 15) == 0
        assert calls[1].code() == grpc.StatusCode.UNAVAILABLE


def test_a_client_survives_kill_9_and_a_restart(encoder_dir, images_dir, tmp_path):
    flags = ("--model_name=byol", f"--model_base_path={encoder_dir}")
    files = sorted((images_dir / "test").glob("*/0000.jpg"))
    server = Server(tmp_path / "log", *flags)
    clients = [
        EmbeddingClient(address, timeout=120, retries=100, batch_size=4)
        for address in (server.address, server.url)
    ]
    before = [client.embed(files) for client in clients]
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    after = {}
    threads = [
        threading.Thread(target=lambda i=i: after.update({i: clients[i].embed(files)}))
        for i in range(len(clients))
    ]
    for thread in threads:
        thread.start()
    time.sleep(1)
    port, rest_port = server.port, server.rest_port
    again = Server(
        tmp_path / "log", *flags, f"--port={port}", f"--rest_api_port={rest_port}", wait=0
    )
    again.port, again.rest_port = port, rest_port
    with again:
        again.wait_until_listening(120)
        for thread in threads:
            thread.join()
        for number, client in enumerate(clients):
            np.testing.assert_allclose(after[number], before[number], rtol=0, atol=1e-6)
            client.close()


def test_nothing_failed_inside(faulty):
    assert faulty.process.poll() is None
    assert "Traceback" not in faulty.log.read_text()
    assert json.loads(requests.get(f"{faulty.url}/v1/models/echo").text)

"""A gRPC server in this process under hostile clients: costly calls, cancelled calls, the drain."""

import asyncio
import collections
import threading
import time

import grpc
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from serve import free_port
from tensorflow_serving.apis import (
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.local_server import model_config
from serving.local_server.grpc_service import GrpcServer
from serving.local_server.model_store import ModelStore

LONG = 600.0  # Seconds that no test waits for.


@pytest.fixture(scope="module")
def loop():
    """An event loop that runs in a thread of its own."""
    result = asyncio.new_event_loop()
    thread = threading.Thread(target=result.run_forever)
    thread.start()
    yield result
    result.call_soon_threadsafe(result.stop)
    thread.join()
    result.close()


@pytest.fixture(scope="module")
def store(models_dir, encoder_dir):
    """echo and byol, loaded in this process."""
    result = ModelStore()
    both = [
        model_config.single("echo", f"{models_dir}/echo").model_config_list.config[0],
        model_config.single("byol", str(encoder_dir)).model_config_list.config[0],
    ]
    result.start()
    result.wait(result.configure(both))
    yield result
    result.stop()


@pytest.fixture
def serve(loop, store):
    """Function that starts a server with two threads and returns it and a channel to it."""
    started = []

    def start(**options):
        async def make():
            server = GrpcServer(store, f"127.0.0.1:{port}", 2, **options)
            await server.start()
            return server

        port = free_port()
        server = asyncio.run_coroutine_threadsafe(make(), loop).result(60)
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        started.append((server, channel))
        return server, channel

    yield start
    for server, channel in started:
        channel.close()
        asyncio.run_coroutine_threadsafe(server._server.stop(None), loop).result(60)


def request(model, signature, **inputs):
    result = predict_pb2.PredictRequest()
    result.model_spec.name, result.model_spec.signature_name = model, signature
    for name, value in inputs.items():
        result.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return result


def filled(shape):
    """Returns a pixels request whose one value stands for all elements of the shape."""
    result = request("byol", "pixels")
    tensor = result.inputs["images"]
    tensor.dtype = tf.uint8.as_datatype_enum
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.int_val.append(7)
    return result


def error(call, *arguments, **options):
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **{"timeout": 60} | options)
    return caught.value.code().name, caught.value.details()


def test_a_few_bytes_cannot_ask_for_millions_of_rows(serve):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(serve()[1])
    bomb = filled([22_000_000, 1, 1, 3])
    assert bomb.ByteSize() < 60
    begin = time.monotonic()
    for _ in range(8):
        code, message = error(stub.Predict, bomb)
        assert code == "INVALID_ARGUMENT"
        assert message == "The input images has 22000000 rows; send at most 4096 in one request."
    assert time.monotonic() - begin < 10
    assert stub.Predict(filled([4096, 1, 1, 3]), timeout=60).outputs["embedding"]


def test_one_string_cannot_stand_for_gigabytes(serve):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(serve()[1])
    bomb = request("byol", "serving_default", image_bytes=[bytes(1 << 20)])
    bomb.inputs["image_bytes"].tensor_shape.dim[0].size = 4000
    code, message = error(stub.Predict, bomb)
    assert code == "INVALID_ARGUMENT" and "is more than the values given" in message


@pytest.mark.parametrize("shape", [[1, 0, 5, 3], [2, 5, 0, 3], [0, 0, 0, 3]])
def test_images_without_pixels_are_a_sentence(serve, shape):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(serve()[1])
    code, message = error(stub.Predict, filled(shape))
    assert code == "INVALID_ARGUMENT"
    assert message == (
        f"The input images has the shape {shape}, whose rows have no values; only the first size "
        "may be 0."
    )


def test_cancelled_calls_free_the_server(serve):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(serve()[1])
    busy = [stub.Predict.future(request("echo", "slow", seconds=[LONG])) for _ in range(8)]
    time.sleep(1)
    for call in busy:
        call.cancel()
    answer = stub.Predict(request("echo", "float", value=[1.5]), timeout=30)
    assert answer.outputs["value"].float_val == [1.5]


def test_the_embedding_of_many_images_stops_when_its_client_goes(serve, store):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(serve()[1])
    version = store._models["byol"].versions[1]
    call = stub.Predict.future(filled([4096, 70, 70, 3]))
    while not version.in_flight:
        time.sleep(0.001)
    call.cancel()
    end = time.monotonic() + 30
    while version.in_flight:
        assert time.monotonic() < end
        time.sleep(0.01)
    answer = stub.Predict(filled([1, 8, 8, 3]), timeout=30)
    assert answer.outputs["embedding"].tensor_shape.dim[1].size == 128


def test_a_call_without_a_deadline_gets_the_servers(serve):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(serve(default_timeout=1.0)[1])
    slow = request("echo", "slow", seconds=[LONG])
    code, _ = error(stub.Predict, slow, timeout=None)
    assert code == "DEADLINE_EXCEEDED"
    # The client's own deadline counts, be it longer.
    answer = stub.Predict(request("echo", "slow", seconds=[1.5]), timeout=60)
    assert answer.outputs["seconds"].float_val == [1.5]


def test_clients_cannot_replace_the_config_unless_that_is_allowed(serve, store):
    nothing = model_management_pb2.ReloadConfigRequest()
    nothing.config.model_config_list.SetInParent()
    call = model_service_pb2_grpc.ModelServiceStub(serve()[1]).HandleReloadConfigRequest
    code, message = error(call, nothing)
    assert code == "PERMISSION_DENIED" and "--allow_reload_config" in message
    assert store.known_name("echo") and store._models["echo"].config
    invalid = model_management_pb2.ReloadConfigRequest()
    call = serve(allow_reload_config=True)[1]
    code, _ = error(
        model_service_pb2_grpc.ModelServiceStub(call).HandleReloadConfigRequest, invalid
    )
    assert code == "INVALID_ARGUMENT"


def test_reflection_is_off_unless_asked_for(serve):
    def names(channel):
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        (answer,) = stub.ServerReflectionInfo(iter([ask]), timeout=60)
        return {service.name for service in answer.list_services_response.service}

    with pytest.raises(grpc.RpcError) as caught:
        names(serve()[1])
    assert caught.value.code().name == "UNIMPLEMENTED"
    assert "tensorflow.serving.PredictionService" in names(serve(reflection=True)[1])


def test_calls_during_the_drain_are_unavailable_and_running_ones_finish(serve, loop):
    server, channel = serve()
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    quick = request("echo", "float", value=[1.0])
    running = stub.Predict.future(request("echo", "slow", seconds=[3.0]), timeout=60)
    results, stop = collections.Counter(), threading.Event()

    def load():
        while not stop.is_set():
            for call in [stub.Predict.future(quick, timeout=60) for _ in range(50)]:
                results[call.code().name] += 1

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    asyncio.run_coroutine_threadsafe(server.drain(30), loop).result(60)
    stop.set()
    for thread in threads:
        thread.join()
    assert running.result().outputs["seconds"].float_val == [3.0]
    assert results.keys() == {"OK", "UNAVAILABLE"}, results
    assert "is stopping" in error(stub.Predict, quick)[1]
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_the_drain_waits_no_longer_than_it_may(serve, loop):
    server, channel = serve()
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    call = stub.Predict.future(request("echo", "slow", seconds=[LONG]))
    time.sleep(0.5)
    begin = time.monotonic()
    asyncio.run_coroutine_threadsafe(server.drain(1), loop).result(60)
    assert time.monotonic() - begin < 20 and not call.done()
    call.cancel()

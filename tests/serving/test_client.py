"""The client against a running server, and against servers that misbehave on purpose."""

import asyncio
import contextlib
import http.server
import pathlib
import threading
import time
from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2
from PIL import Image
from serve import free_port
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    model_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.client import AsyncEmbeddingClient, EmbeddingClient, EmbeddingError, wire
from serving.client.batches import in_batches


@pytest.fixture(scope="module")
def files(images_dir):
    return sorted((images_dir / "test").glob("*/000[0-3].jpg"))


@pytest.fixture(scope="module")
def expected(encoder_dir, files):
    """Embeddings by the SavedModel itself, `[40, 128]`."""
    model = tf.saved_model.load(str(encoder_dir / "1"))
    contents = tf.constant([file.read_bytes() for file in files])
    return model.signatures["serving_default"](image_bytes=contents)["embedding"].numpy()


@pytest.fixture(params=["grpc", "rest"])
def address(server, request):
    return server.address if request.param == "grpc" else server.url


def decoded(file):
    return tf.io.decode_jpeg(file.read_bytes(), dct_method="INTEGER_ACCURATE").numpy()


def test_paths_bytes_and_arrays_give_the_models_own_embeddings(address, files, expected):
    with EmbeddingClient(address, batch_size=7) as client:
        for images in (
            files,
            map(str, files),
            [file.read_bytes() for file in files],
            [decoded(f) for f in files],
        ):
            embeddings = client.embed(images)
            assert embeddings.dtype == np.float32
            np.testing.assert_allclose(embeddings, expected, rtol=0, atol=1e-5)
        batch = np.stack([decoded(file) for file in files])
        np.testing.assert_allclose(client.embed(batch), expected, rtol=0, atol=1e-5)


def test_mixed_images_of_other_sizes_keep_their_order(address, files, expected):
    wide = [np.asarray(Image.open(files[0]).resize((40 + i % 3, 32))) for i in range(10)]
    images = [
        image
        for triple in zip(files[:10], wide, map(decoded, files[10:20]), strict=True)
        for image in triple
    ]
    with EmbeddingClient(address, batch_size=4) as client:
        embeddings = client.embed(images)
        np.testing.assert_allclose(embeddings[0::3], expected[:10], rtol=0, atol=1e-5)
        np.testing.assert_allclose(embeddings[2::3], expected[10:20], rtol=0, atol=1e-5)
        np.testing.assert_allclose(embeddings[1::3], client.embed(wide), rtol=0, atol=1e-5)
        assert client.embed([]).shape == (0, 0)


def test_the_async_client_gives_the_same(address, files, expected):
    async def main():
        async with AsyncEmbeddingClient(address, batch_size=3, in_flight=5) as client:
            assert await client.version() == 1
            first, second = await asyncio.gather(client.embed(files), client.embed(files[:5]))
            with pytest.raises(EmbeddingError) as caught:
                await client.embed([*files, b"no image", *files])
            return first, second, caught.value.code, (await client.embed([])).shape

    first, second, code, empty = asyncio.run(main())
    np.testing.assert_allclose(first, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(second, expected[:5], rtol=0, atol=1e-5)
    assert (code, empty) == ("INVALID_ARGUMENT", (0, 0))


def test_bad_images_are_told_from_good_ones(address, files, expected):
    images = [file.read_bytes() for file in files[:20]]
    for bad in (0, 7, 8, 19):
        images[bad] = images[bad][:100]
    with EmbeddingClient(address, batch_size=16) as client:
        with pytest.raises(EmbeddingError) as caught:
            client.embed(images)
        assert caught.value.code == "INVALID_ARGUMENT" and "model byol at" in str(caught.value)
        results = client.embed_each(images)
    assert [i for i, result in enumerate(results) if isinstance(result, EmbeddingError)] == [
        0,
        7,
        8,
        19,
    ]
    good = [i for i in range(20) if i not in (0, 7, 8, 19)]
    np.testing.assert_allclose(
        np.stack([results[i] for i in good]), expected[good], rtol=0, atol=1e-5
    )


def test_versions_labels_and_their_mistakes(address):
    with EmbeddingClient(address, "half_plus") as client:
        assert client.version() == 3
    with EmbeddingClient(address, "half_plus", label="stable") as client:
        assert client.version() == 2
    cases = [("half_plus", {"version": 7}, "NOT_FOUND"), ("none", {}, "NOT_FOUND"),
             ("half_plus", {"label": "none"}, "INVALID_ARGUMENT")]  # fmt: skip
    for name, which, code in cases:
        with (
            EmbeddingClient(address, name, **which) as client,
            pytest.raises(EmbeddingError) as caught,
        ):
            client.version()
        assert (
            caught.value.code == code and name in str(caught.value) and address in str(caught.value)
        )


@pytest.mark.parametrize(
    ("image", "error", "sentence"),
    [
        (np.zeros([8, 8, 3], np.float32), ValueError, "float32 .* give uint8 or uint16"),
        (np.zeros([8, 8], np.uint8), ValueError, r"give uint8 or uint16 \[H, W, C\]"),
        (3, TypeError, "type int is not an image"),
        ("nothing.jpg", FileNotFoundError, "^the image 'nothing.jpg' cannot be read .*; give the"),
        (pathlib.Path("/"), IsADirectoryError, "^the image '/' cannot be read .*; give the path"),
    ],
)
def test_a_value_that_is_not_an_image_is_refused_before_anything_is_sent(image, error, sentence):
    with EmbeddingClient("127.0.0.1:1") as client:
        for images in (image, [image]):
            with pytest.raises(error, match=sentence):
                client.embed(images)


def test_a_single_image_is_a_list_of_one(address, files, expected):
    with EmbeddingClient(address) as client:
        for image in (files[0], str(files[0]), files[0].read_bytes(), decoded(files[0])):
            np.testing.assert_allclose(client.embed(image), expected[:1], rtol=0, atol=1e-5)
        (row,) = client.embed_each(str(files[0]))
        np.testing.assert_allclose(row, expected[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "arguments", [{"batch_size": 0}, {"timeout": -1}, {"retries": -1}, {"version": 1, "label": "x"}]
)
def test_arguments_out_of_range_are_refused(arguments):
    for client in (EmbeddingClient, AsyncEmbeddingClient):
        with pytest.raises(ValueError):
            client(**arguments)


def test_batches_are_bounded_in_bytes():
    large = [bytes(20 << 20)] * 4
    assert [len(batch.values) for batch in in_batches(large, 32)] == [1, 1, 1, 1]
    assert [len(batch.values) for batch in in_batches([bytes(10 << 20)] * 7, 32)] == [3, 3, 1]
    assert [len(batch.values) for batch in in_batches([b"x"] * 70, 32)] == [32, 32, 6]


class Scripted(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Service that answers each Predict by its script: a code to fail with, "hang", or None."""

    def __init__(self, *script):
        self.script = list(script)
        self.calls = []

    def Predict(self, request, context):
        self.calls.append(time.monotonic())
        code = self.script.pop(0) if self.script else None
        if code == "hang":
            time.sleep(3)
        elif code:
            context.abort(code, "as the script says")
        response = predict_pb2.PredictResponse()
        count = request.inputs["image_bytes"].tensor_shape.dim[0].size
        response.outputs["embedding"].CopyFrom(
            tf.make_tensor_proto(np.ones([count, 4], np.float32))
        )
        return response


@contextlib.contextmanager
def scripted(*script):
    servicer = Scripted(*script)
    server = grpc.server(futures.ThreadPoolExecutor(4))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield servicer, f"127.0.0.1:{port}"
    finally:
        server.stop(None)


UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def test_unavailable_is_tried_again_with_growing_waits():
    with scripted(*[UNAVAILABLE] * 4) as (servicer, address), EmbeddingClient(address) as client:
        assert client.embed([b"x"]).shape == (1, 4)
    waits = np.diff(servicer.calls)
    assert len(waits) == 4 and waits[0] < waits[3] and 0.7 < sum(waits) < 10


@pytest.mark.parametrize(
    "code",
    [grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.NOT_FOUND],
)
def test_other_errors_are_not_tried_again(code):
    with (
        scripted(code) as (servicer, address),
        EmbeddingClient(address) as client,
        pytest.raises(EmbeddingError, match="as the script says") as caught,
    ):
        client.embed([b"x"])
    assert (caught.value.code, len(servicer.calls)) == (code.name, 1)


def test_retries_end_with_their_number_and_with_the_deadline():
    with scripted(*[UNAVAILABLE] * 99) as (servicer, address):
        with EmbeddingClient(address, retries=2) as client, pytest.raises(EmbeddingError):
            client.embed([b"x"])
        assert len(servicer.calls) == 3
        begin = time.monotonic()
        with (
            EmbeddingClient(address, retries=99, timeout=1) as client,
            pytest.raises(EmbeddingError),
        ):
            client.embed([b"x"])
        assert time.monotonic() - begin < 5


def test_a_server_that_hangs_exceeds_the_deadline():
    with (
        scripted("hang") as (_, address),
        EmbeddingClient(address, timeout=0.5) as client,
        pytest.raises(EmbeddingError) as caught,
    ):
        client.embed([b"x"])
    assert caught.value.code == "DEADLINE_EXCEEDED"


def test_no_server_is_unavailable():
    for address in (f"127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"):
        with EmbeddingClient(address, retries=1) as client, pytest.raises(EmbeddingError) as caught:
            client.embed([b"x"])
        assert caught.value.code == "UNAVAILABLE"


@contextlib.contextmanager
def http_server(*answers):
    """Answers POSTs with (status, body) in turn; yields its URL and the connections."""
    script, connections = list(answers), []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self):
            super().setup()
            connections.append(self.client_address)

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            status, body = script.pop(0) if len(script) > 1 else script[0]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *unused):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", connections
    finally:
        server.shutdown()
        server.server_close()


def test_rest_retries_503_over_one_connection():
    good = (200, b'{"predictions": [[1.0, 2.0]]}')
    with (
        http_server((503, b'{"error": "full"}'), (503, b""), good) as (url, connections),
        EmbeddingClient(url) as client,
    ):
        assert client.embed([b"x"]).tolist() == [[1, 2]]
        for _ in range(5):
            client.embed([b"x"])
    assert len(connections) == 1


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((400, b'{"error": "why"}'), "INVALID_ARGUMENT"),
        ((404, b"<html>"), "NOT_FOUND"),
        ((504, b'{"error": "late"}'), "DEADLINE_EXCEEDED"),
        ((500, b"[1]"), "UNKNOWN"),
        ((200, b"{}"), "INTERNAL"),
        ((200, b"no json"), "INTERNAL"),
        ((200, b'{"predictions": [[1.0], [2.0]]}'), "INTERNAL"),
        ((200, b'{"predictions": ["text"]}'), "INTERNAL"),
    ],
)
def test_whatever_rest_answers_is_an_error_with_a_code(answer, code):
    with (
        http_server(answer) as (url, _),
        EmbeddingClient(url) as client,
        pytest.raises(EmbeddingError) as caught,
    ):
        client.embed([b"x"])
    assert caught.value.code == code and url in str(caught.value)


def numbers_and_labels(message):
    """Returns number and label by field; in protobuf 7, only this proto tells the labels."""
    proto = descriptor_pb2.DescriptorProto()
    message.DESCRIPTOR.CopyToProto(proto)
    return {field.name: (field.number, field.label) for field in proto.field}


def test_the_wire_messages_are_tf_servings():
    """Compares names, numbers, labels and types of the fields that the client declares."""
    originals = {
        "PredictRequest": predict_pb2.PredictRequest,
        "PredictResponse": predict_pb2.PredictResponse,
        "ModelSpec": model_pb2.ModelSpec,
        "TensorProto": tensor_pb2.TensorProto,
        "TensorShapeProto": tensor_shape_pb2.TensorShapeProto,
        "Dim": tensor_shape_pb2.TensorShapeProto.Dim,
        "GetModelMetadataRequest": get_model_metadata_pb2.GetModelMetadataRequest,
        "GetModelMetadataResponse": get_model_metadata_pb2.GetModelMetadataResponse,
        "SignatureDefMap": get_model_metadata_pb2.SignatureDefMap,
        "SignatureDef": meta_graph_pb2.SignatureDef,
        "TensorInfo": meta_graph_pb2.TensorInfo,
    }
    assert wire._CLASSES.keys() == originals.keys()
    compared = 0
    for name, original in originals.items():
        assert numbers_and_labels(wire._CLASSES[name]).items() <= (
            numbers_and_labels(original).items()
        )
        for field in wire._CLASSES[name].DESCRIPTOR.fields:
            theirs = original.DESCRIPTOR.fields_by_name[field.name]
            is_enum = theirs.type == theirs.TYPE_ENUM
            assert field.type == (theirs.TYPE_INT32 if is_enum else theirs.type)
            if field.message_type:
                assert field.message_type.name == theirs.message_type.name
            compared += 1
    assert compared > 15
    assert (wire.DT_FLOAT, wire.DT_UINT8, wire.DT_STRING, wire.DT_UINT16) == (
        types_pb2.DT_FLOAT,
        types_pb2.DT_UINT8,
        types_pb2.DT_STRING,
        types_pb2.DT_UINT16,
    )

"""Random requests: each one gets a clean status, and the server survives.

200 cases per test; `pytest tests/serving/test_fuzz.py --fuzz-cases=1000` runs more.
"""

import json

import grpc
import pytest
import requests
import servable_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import predict_pb2

pytestmark = pytest.mark.slow

# Every status a client may get; INTERNAL only if the bytes are not a message at all.
CLEAN = {200, 400, 404, 501}
CODES = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
}
many = settings(
    settings.get_profile("fuzz"),  # With the number of cases; see conftest.py.
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-300, 300), st.floats(),
    st.text(max_size=8),
    st.fixed_dictionaries({"b64": st.text(max_size=12) | st.just("aGk=") | st.integers()}),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["a", "b", "value", "b64"]), inner, max_size=3)
    ),
    max_leaves=12,
)
signatures = st.sampled_from(
    [*servable_models.ECHOED, "bytes", "two", "scalar", "classify_like", "", "nosuch"]
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "signature_name": signatures | scalars,
        "instances": st.lists(values, max_size=4) | values,
        "inputs": values,
        "examples": values,
        "context": values,
    },
)


@pytest.fixture(scope="module")
def session():
    with requests.Session() as session:
        yield session


def assert_clean(answer):
    assert answer.status_code in CLEAN, answer.text
    content = json.loads(answer.text)  # With NaN and Infinity, as in TF Serving.
    if answer.status_code == 200:
        assert content.keys() <= {"predictions", "outputs"}
    else:
        assert content.keys() == {"error"} and content["error"]


@many
@given(
    document=documents,
    method=st.sampled_from(["predict", "predict", "predict", "classify", "regress"]),
)
def test_rest_documents(server, session, document, method):
    body = json.dumps(document).encode("utf-8", "surrogatepass")
    assert_clean(session.post(f"{server.url}/v1/models/echo:{method}", data=body, timeout=30))


@many
@given(
    body=st.binary(max_size=200)
    | st.text(alphabet='{}[]":,0123456789.eE-+ \\ubnaltrsinstances', max_size=80).map(str.encode)
)
def test_rest_bodies(server, session, body):
    assert_clean(session.post(f"{server.url}/v1/models/echo:predict", data=body, timeout=30))


@many
@given(data=st.data())
def test_rest_bodies_with_a_few_wrong_bytes(server, session, data):
    body = bytearray(
        b'{"signature_name": "two", "instances": '
        b'[{"a": [1.5, 2e3], "b": {"b64": "aGk="}}, {"a": [NaN, -0], "b": "x"}]}'
    )
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(body) - 1))
        body[position] = data.draw(st.integers(0, 255))
    assert_clean(session.post(f"{server.url}/v1/models/echo:predict", data=bytes(body), timeout=30))


@many
@given(
    tail=st.text(alphabet="/:.%?#0129abmodelsversions\u00e9 ", max_size=30),
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD"]),
)
def test_rest_paths(server, session, tail, method):
    url = f"{server.url}/v1/{tail}"
    answer = session.request(method, url, data=b"{}", timeout=30)
    assert answer.status_code in CLEAN


@pytest.mark.parametrize("depth", [100, 990, 1000, 10_000, 1_000_000])
def test_rest_nesting(server, session, depth):
    body = b'{"instances": ' + b"[" * depth + b"]" * depth + b"}"
    assert_clean(session.post(f"{server.url}/v1/models/echo:predict", data=body, timeout=60))
    body = b'{"a": ' * depth + b"1" + b"}" * depth
    assert_clean(session.post(f"{server.url}/v1/models/echo:predict", data=body, timeout=60))


@pytest.mark.parametrize(
    "number", ["1" * 5000, "1e999999", "-" + "9" * 400, "0." + "1" * 10_000, "1E+" + "9" * 400]
)
def test_rest_numbers(server, session, number):
    for signature in ("float", "double", "int32", "uint64"):
        body = f'{{"signature_name": "{signature}", "inputs": {number}}}'
        assert_clean(session.post(f"{server.url}/v1/models/echo:predict", data=body, timeout=60))


def raw(channel, method="Predict"):
    return channel.unary_unary(
        f"/tensorflow.serving.PredictionService/{method}",
        request_serializer=lambda content: content,
        response_deserializer=predict_pb2.PredictResponse.FromString,
    )


def assert_clean_call(call, content, codes):
    try:
        call(content, timeout=30)
    except grpc.RpcError as error:
        assert error.code() in codes, error


@many
@given(
    content=st.binary(max_size=100),
    method=st.sampled_from(
        ["Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata"]
    ),
)
def test_grpc_bytes(channel, content, method):
    # gRPC answers bytes that are not a message with INTERNAL, in C++ too.
    assert_clean_call(raw(channel, method), content, CODES | {grpc.StatusCode.INTERNAL})


tensor_fields = {
    "dtype": st.sampled_from(types_pb2.DataType.values()),
    "sizes": st.lists(st.integers(-2, 5) | st.sampled_from([2**31, 2**62, 2**63 - 1]), max_size=4),
    "unknown_rank": st.booleans(),
    "tensor_content": st.binary(max_size=24),
    "float_val": st.lists(st.floats(width=32), max_size=6),
    "double_val": st.lists(st.floats(), max_size=3),
    "int_val": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=6),
    "int64_val": st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
    "string_val": st.lists(st.binary(max_size=6), max_size=4),
    "bool_val": st.lists(st.booleans(), max_size=4),
    "half_val": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
}


@many
@given(
    fields=st.fixed_dictionaries({}, optional=tensor_fields),
    signature=signatures,
    name=st.sampled_from(["value", "value", "a", ""]),
)
def test_grpc_tensors(predictions, fields, signature, name):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "echo", signature
    tensor = request.inputs[name]
    for field, value in fields.items():
        if field == "sizes":
            for size in value:
                tensor.tensor_shape.dim.add(size=size)
        elif field == "unknown_rank":
            tensor.tensor_shape.unknown_rank = value
        elif isinstance(value, list):
            getattr(tensor, field).extend(value)
        else:
            setattr(tensor, field, value)
    assert_clean_call(
        lambda content, timeout: predictions.Predict(content, timeout=timeout), request, CODES
    )


@many
@given(data=st.data())
def test_grpc_messages_with_a_few_wrong_bytes(channel, images_dir, data):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "byol"
    request.inputs["image_bytes"].dtype = types_pb2.DT_STRING
    request.inputs["image_bytes"].tensor_shape.dim.add(size=1)
    request.inputs["image_bytes"].string_val.append(
        (images_dir / "test" / "cat" / "0000.jpg").read_bytes()
    )
    content = bytearray(request.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    assert_clean_call(raw(channel), bytes(content), CODES | {grpc.StatusCode.INTERNAL})


def test_the_server_survives_and_logged_no_bug(server, session):
    assert session.get(f"{server.url}/v1/models/byol").status_code == 200
    assert "Traceback" not in server.log.read_text()

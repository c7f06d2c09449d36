"""REST as TensorFlow Serving 2.15 answers it: URLs, codes, headers and exact bodies."""

import base64
import gzip
import json
import math
import re
import time

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from tensorflow_serving.apis import model_pb2, predict_pb2

TIMEOUT = 60
HALF = "half_plus:predict"
ECHO = "echo:predict"


def send(server, method, path, data=None, **headers):
    """Sends a request; the path is sent unchanged, which requests would normalize."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if data is not None and not isinstance(data, bytes):
        data = (data if isinstance(data, str) else json.dumps(data)).encode()
    with requests.Session() as session:
        prepared = session.prepare_request(
            requests.Request(method, server.url, data=data, headers=headers)
        )
        prepared.url = server.url + path
        return session.send(prepared, timeout=TIMEOUT)


def get(server, path):
    return send(server, "GET", "/v1/models/" + path)


def post(server, path, body, **headers):
    return send(server, "POST", "/v1/models/" + path, body, **headers)


def answer(response):
    assert response.status_code == 200, response.text
    return response.json()


def error(response):
    """Returns status and message of an error; checks its form."""
    body = response.json()
    assert list(body) == ["error"] and isinstance(body["error"], str)
    assert response.text.startswith('{\n    "error": "') and response.text.endswith('"\n}')
    assert response.headers["Content-Type"] == "application/json"
    return response.status_code, body["error"]


def encoded(content):
    return {"b64": base64.b64encode(content).decode()}


def outputs(server, signature, value):
    """Sends one input in column form, as JSON text; returns the output in column form."""
    body = f'{{"signature_name": "{signature}", "inputs": {value}}}'
    return answer(post(server, ECHO, body))["outputs"]


@pytest.mark.parametrize(
    "path, served",
    [
        ("half_plus:predict", 3),
        ("half_plus/versions/2:predict", 2),
        ("half_plus/versions/3:predict", 3),
        ("half_plus/labels/stable:predict", 2),
        ("half_plus/labels/canary:predict", 3),
        ("half_plus/versions/0002:predict", 2),
        ("half_plus/Versions/2:predict", 2),
        ("half_plus/LABELS/stable:predict", 2),
        ("half%5Fplus:predict", 3),
        ("h%61lf_plus/labels/st%61ble:predict", 2),
    ],
)
def test_predict_urls(server, path, served):
    assert answer(post(server, path, {"instances": [0.0]})) == {"predictions": [served]}


@pytest.mark.parametrize(
    "method, path",
    [
        ("GET", "/v1/models/half_plus/"),
        ("GET", "/v1/models/"),
        ("GET", "/v1/"),
        ("GET", "/v1/nope"),
        ("POST", "/v1/models/half_plus"),
        ("POST", "/v1/models/half_plus/versions/2"),
        ("POST", "/v1/models/half_plus/metadata"),
        ("GET", "/v1/models/half_plus:predict"),
        ("GET", "/v1/models/half_plus/metadata/"),
        ("GET", "/v1/models/half_plus/nope"),
        ("PUT", "/v1/models/half_plus"),
        ("DELETE", "/v1/models/half_plus"),
        ("PUT", "/v1/models/half_plus:predict"),
        ("POST", "/v1/models/half_plus/versions/2/labels/stable:predict"),
        ("GET", "/v1/models/half_plus/versions/2/labels/stable"),
        ("POST", "/v1/models/half_plus/versions/two:predict"),
        ("POST", "/v1/models/half_plus/versions/-2:predict"),
        ("POST", "/v1/models/half_plus/versions/:predict"),
        ("POST", "/v1/models/half_plus:predict/"),
        ("POST", "/v1/models/half_plus:PREDICT"),
        ("POST", "/v1/models/half_plus:multiInference"),
        ("POST", "/v1/models/half_plus:predict?x=1"),
    ],
)
def test_other_urls_are_malformed_requests(server, method, path):
    response = send(server, method, path, "{}" if method != "GET" else None)
    assert error(response) == (400, f"Malformed request: {method} {path}")


def test_models_cannot_be_listed(server):
    code, message = error(send(server, "GET", "/v1/models"))
    assert code == 400 and "Missing model name in request." in message


@pytest.mark.parametrize(
    "method, suffix", [("GET", ""), ("GET", "/metadata"), ("POST", ":predict")]
)
def test_versions_beyond_int64_are_refused(server, method, suffix):
    response = send(
        server, method, f"/v1/models/half_plus/versions/9223372036854775808{suffix}", "{}"
    )
    code, message = error(response)
    assert code == 400 and "Failed to convert version: 9223372036854775808 to numeric." in message


@pytest.mark.parametrize(
    "path", ["/", "/v2/models/half_plus", "/models/half_plus", "/v1x/models/half_plus"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_paths_outside_are_not_found(server, method, path):
    response = send(server, method, path)
    assert response.status_code == 404
    assert response.headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("path, name", [("half_plus?x=1", "half_plus?x=1"), ("a%2Fb%20c", "a/b c"),
                                        ("HALF_PLUS", "HALF_PLUS"), ("nope", "nope")])  # fmt: skip
def test_status_of_unknown_models(server, path, name):
    code, message = error(get(server, path))
    assert code == 404 and f"Could not find any versions of model {name}" in message


GOOD = {"instances": [1.0]}
PREDICT_ERRORS = {
    "unknown model": ("nope:predict", GOOD, 404, "Servable not found for request: Latest(nope)"),
    "unknown version": (
        "half_plus/versions/7:predict", GOOD,
        404, "Servable not found for request: Specific(half_plus, 7)",
    ),
    "unknown label": (
        "half_plus/labels/dev:predict", GOOD,
        400, "Unrecognized servable version label: dev",
    ),
    "label of an unknown model": (
        "nope/labels/dev:predict", GOOD,
        400, "Unrecognized servable version label: dev",
    ),
    "unknown signature": (
        HALF, GOOD | {"signature_name": "nope"},
        400, 'Serving signature name: "nope" not found in signature def',
    ),
    "bad body, unknown model": ("nope:predict", "{", 400, "JSON Parse error: "),
    "bad signature_name, unknown model": ("nope:predict", GOOD | {"signature_name": 1}, 400, ""),
    "no values, unknown model": ("nope:predict", {}, 404, "Latest(nope)"),
    "no values, unknown signature": (HALF, {"signature_name": "nope"}, 400, '"nope" not found'),
    "empty body": (HALF, "", 400, "JSON Parse error: The document is empty"),
    "single quotes": (HALF, "{'instances': [1.0]}", 400, "JSON Parse error: "),
    "something behind": (HALF, '{"instances": [1.0]} 1', 400, "JSON Parse error: "),
    "trailing comma": (HALF, '{"instances": [1.0,]}', 400, "JSON Parse error: "),
    "array": (HALF, "[1.0]", 400, ""),
    "number": (HALF, "1", 400, ""),
    "null signature_name": (HALF, GOOD | {"signature_name": None}, 400, ""),
    "neither form": (HALF, {"signature_name": "serving_default"}, 400, ""),
    "both forms": (HALF, GOOD | {"inputs": [1.0]}, 400, ""),
    "no rows": (HALF, {"instances": []}, 400, "No values in 'instances' array"),
    "rows in an object": (HALF, {"instances": {"x": 1.0}}, 400, ""),
    "rows in a number": (HALF, {"instances": 1.0}, 400, ""),
    "plain rows for two inputs": (ECHO, {"signature_name": "two", "instances": [1.0]}, 400, ""),
    "plain column for two inputs": (ECHO, {"signature_name": "two", "inputs": [1.0]}, 400, ""),
    "plain row among objects": (HALF, {"instances": [{"x": 1.0}, 1.0]}, 400, ""),
    "row without an input": (ECHO, {"signature_name": "two", "instances": [{"a": 1.0}]}, 400, ""),
    "row with one more key": (HALF, {"instances": [{"x": 1.0, "z": 1.0}]}, 400, ""),
    "row with another key": (HALF, {"instances": [{"z": 1.0}]}, 400, ""),
    "missing column": (
        ECHO, {"signature_name": "two", "inputs": {"a": [1.0]}},
        400, "Missing named input: b in 'inputs' object.",
    ),
    "ragged row": (ECHO, {"instances": [[[1.0], [1.0, 2.0]]]}, 400, ""),
    "ragged column": (ECHO, {"inputs": [[1.0], [1.0, 2.0]]}, 400, ""),
    "column of two depths": (ECHO, {"inputs": [1.0, [2.0]]}, 400, ""),
    "text for float": (HALF, {"inputs": ["a"]}, 400, "is not of expected type: float"),
    "bytes for float": (
        HALF, {"inputs": [encoded(b"a")]},
        400, "Type: Object is not of expected type: float",
    ),
    "bytes for float in a row": (
        HALF, {"instances": [encoded(b"a")]},
        400, "Type: Object is not of expected type: float",
    ),
    "half column": (ECHO, {"signature_name": "half", "inputs": [1.0]}, 501, ""),
    "half row": (ECHO, {"signature_name": "half", "instances": [1.0]}, 400, ""),
    "scalar result in row form": (
        ECHO, {"signature_name": "scalar", "instances": [1.0]},
        400, "Tensor name: total has no shape information ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("path, body, code, fragment", PREDICT_ERRORS.values(), ids=PREDICT_ERRORS)
def test_predict_errors(server, path, body, code, fragment):
    answered, message = error(post(server, path, body))
    assert answered == code and message and fragment in message


@pytest.mark.parametrize(
    "signature, rows, place",
    [
        ("float", [1.0, "a"], "1 of"),
        ("float", [[1.0], [1.0, 2.0]], "1 of"),
        ("float", [{"value": "a"}], "0 key: value of"),
        ("half", [1.0], "0 of"),
    ],
)
def test_errors_in_rows_say_where(server, signature, rows, place):
    code, message = error(post(server, ECHO, {"signature_name": signature, "instances": rows}))
    beginning = f"Failed to process element: {place} 'instances' list. Error: "
    name = "UNIMPLEMENTED: " if signature == "half" else "INVALID_ARGUMENT: "
    assert code == 400 and message.startswith(beginning + name)


def test_long_messages_are_not_cut(server):
    _, message = error(post(server, "m" * 3000 + ":predict", GOOD))
    assert "m" * 3000 in message


def test_slow_models_time_out(server):
    start = time.monotonic()
    response = post(server, ECHO, {"signature_name": "slow", "instances": [20.0]})
    code, message = error(response)
    assert code == 504 and "Timed out waiting for notification" in message
    assert 1.5 < time.monotonic() - start < 10


@pytest.mark.parametrize("body, code", [('{"instances": [1.0]}', 200), ("{", 400)])
def test_headers(server, body, code):
    response = post(
        server, HALF, body, Accept_Encoding="gzip", Accept="image/png", Content_Type="text/plain"
    )
    assert response.status_code == code
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Content-Length"] == str(len(response.content))
    assert response.headers["Date"].endswith(" GMT")
    assert "Content-Encoding" not in response.headers
    assert not [name for name in response.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("path", ["/v1/models/half_plus:predict", "/v1/models/nope", "/v1/nope"])
@pytest.mark.parametrize(
    "headers, code",
    [
        ({"Origin": "http://a.org"}, 200),
        ({"Origin": "https://a.org"}, 200),
        ({"Origin": "null"}, 400),
        ({}, 400),
    ],
)
def test_options_are_answered_by_origin(server, path, headers, code):
    response = send(server, "OPTIONS", path, **headers)
    assert (response.status_code, response.content) == (code, b"")


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip"])
def test_gzip_bodies_are_unpacked(server, encoding):
    response = post(server, HALF, gzip.compress(b'{"instances": [1.0]}'), Content_Encoding=encoding)
    assert answer(response) == {"predictions": [3.5]}


@pytest.mark.parametrize(
    "body",
    [b'{"instances": [1.0]}', gzip.compress(b'{"instances": [1.0]}')[:20]],
    ids=["plain", "cut"],
)
def test_what_is_no_gzip_counts_as_empty(server, body):
    code, message = error(post(server, HALF, body, Content_Encoding="gzip"))
    assert code == 400 and "JSON Parse error: The document is empty" in message


def test_gzip_bodies_have_a_limit_of_100_mebibytes(server):
    body = gzip.compress(b'{"instances": [1.0]}'.ljust(101 << 20), 1)
    assert error(post(server, HALF, body, Content_Encoding="gzip"))[0] == 413


def test_plain_bodies_have_the_same_limit(server):
    body = b'{"instances": [1.0]}'
    assert answer(post(server, HALF, body.ljust(100 << 20))) == {"predictions": [3.5]}
    assert error(post(server, HALF, body.ljust((100 << 20) + 1)))[0] == 413


@pytest.mark.parametrize(
    "signature, body, expected",
    [
        ("float", {"instances": [1.0, 2.0]}, {"predictions": [1.0, 2.0]}),
        ("float", {"instances": [{"value": 1.0}, {"value": 2.0}]}, {"predictions": [1.0, 2.0]}),
        ("float", {"instances": [[[1.0], [2.0]]]}, {"predictions": [[[1.0], [2.0]]]}),
        ("float", {"inputs": 1.5}, {"outputs": 1.5}),
        ("float", {"inputs": [[1.0, 2.0]]}, {"outputs": [[1.0, 2.0]]}),
        ("float", {"inputs": {"value": [1.0], "ignored": [2.0]}}, {"outputs": [1.0]}),
        ("float", {"inputs": []}, {"outputs": []}),
        ("float", {"instances": [1.0], "ignored": 1}, {"predictions": [1.0]}),
        ("scalar", {"inputs": [1.0, 2.5]}, {"outputs": 3.5}),
        ("text", {"inputs": "a"}, {"outputs": "a"}),
        ("text", {"inputs": encoded(b"abc")}, {"outputs": "abc"}),
        ("text", {"inputs": {"value": encoded(b"abc")}}, {"outputs": "abc"}),
        ("text", {"instances": ["\u00fc\n\"", encoded("\u20ac".encode())]},
         {"predictions": ["\u00fc\n\"", "\u20ac"]}),
        ("text", {"instances": [{"value": encoded(b"a")}]}, {"predictions": ["a"]}),
        ("bytes", {"instances": [encoded(b"\xff\x00"), "\u00fc"]},
         {"predictions": [encoded(b"\xff\x00"), encoded("\u00fc".encode())]}),
        ("bytes", {"inputs": "a"}, {"outputs": encoded(b"a")}),
        ("two", {"instances": [{"a": [1.0, 2.0], "b": "x"}, {"a": [3.0, 4.0], "b": encoded(b"y")}]},
         {"predictions": [{"sum": 3.0, "text": "x"}, {"sum": 7.0, "text": "y"}]}),
        ("two", {"inputs": {"a": [[1.0], [2.0], [4.0]], "b": "x"}},
         {"outputs": {"sum": [1.0, 2.0, 4.0], "text": "x"}}),
        ("two", {"inputs": {"a": [1.0, 2.0], "b": [["x", "y", "z"]]}},
         {"outputs": {"sum": [1.0, 2.0], "text": [["x", "y", "z"]]}}),
    ],
)  # fmt: skip
def test_row_and_column_forms(server, signature, body, expected):
    assert answer(post(server, ECHO, body | {"signature_name": signature})) == expected


def test_shapes_are_left_to_the_graph(server):
    assert answer(post(server, HALF, {"inputs": {"x": [[1.0, 3.0], [5.0, 7.0]]}})) == {
        "outputs": [[3.5, 4.5], [5.5, 6.5]]
    }


@pytest.mark.parametrize(
    "signature, values",
    [
        ("double", "[0.1, -1e300, 3]"),
        ("int8", "[-128, 127]"),
        ("int16", "[-32768, 32767]"),
        ("int32", "[-2147483648, 2147483647]"),
        ("int64", "[-9223372036854775808, 9223372036854775807]"),
        ("uint8", "[0, 255]"),
        ("uint32", "[0, 4294967295]"),
        ("uint64", "[0, 18446744073709551615]"),
        ("bool", "[true, false]"),
        ("text", '["", "a"]'),
        ("float", "[1, 2.5, -3]"),
    ],
)
def test_every_type_passes(server, signature, values):
    expected = json.loads(values)
    result = outputs(server, signature, values)
    assert result == expected
    if signature not in ("float", "double"):
        assert [type(value) for value in result] == [type(value) for value in expected]


@pytest.mark.parametrize(
    "signature, value",
    [
        *((f"int{bits}", "1.0") for bits in (8, 16, 32, 64)),
        *((f"uint{bits}", "1.0") for bits in (8, 32, 64)),
        ("int32", "2147483648"),
        ("int32", "-2147483649"),
        ("int16", "2147483648"),
        ("uint8", "2147483648"),
        ("int64", "9223372036854775808"),
        ("uint32", "-1"),
        ("uint32", "4294967296"),
        ("uint64", "-1"),
        ("int32", "true"),
        ("int32", '"1"'),
        ("bool", "1"),
        ("bool", '"true"'),
        ("float", "true"),
        ("float", '"1.0"'),
        ("float", '"NaN"'),
        ("text", "1"),
        ("text", "true"),
        *(
            (signature, "null")
            for signature in ("float", "double", "int32", "int64", "bool", "text")
        ),
    ],
)
@pytest.mark.parametrize("form", ["instances", "inputs"])
def test_values_of_another_type_are_refused(server, signature, value, form):
    code, message = error(
        post(server, ECHO, f'{{"signature_name": "{signature}", "{form}": [{value}]}}')
    )
    assert code == 400 and message


@pytest.mark.parametrize("content", ["_-8=", "-_-_", "A", "!!!!", "YQ==YQ=="])
def test_bytes_need_the_standard_alphabet(server, content):
    code, message = error(
        post(server, ECHO, {"signature_name": "bytes", "inputs": [{"b64": content}]})
    )
    assert code == 400 and message


@pytest.mark.parametrize("value", [{"b64": 1}, {"b64": "YQ==", "x": 1}, {"b65": "YQ=="}])
def test_bytes_are_the_one_key_of_their_object(server, value):
    code, message = error(post(server, ECHO, {"signature_name": "bytes", "inputs": [value]}))
    assert code == 400 and message


@pytest.mark.parametrize("signature", ["float", "double"])
@pytest.mark.parametrize("form, answered", [("instances", "predictions"), ("inputs", "outputs")])
def test_nan_and_infinities_are_bare_words(server, signature, form, answered):
    body = f'{{"signature_name": "{signature}", "{form}": [NaN, Infinity, -Infinity]}}'
    response = post(server, ECHO, body)
    assert [word.strip(" [],\n") for word in response.text.split(":")[1][:-1].split(",")] == [
        "NaN", "Infinity", "-Infinity",
    ]  # fmt: skip
    nan, *infinities = answer(response)[answered]
    assert math.isnan(nan) and infinities == [math.inf, -math.inf]


@pytest.mark.parametrize(
    "signature, value, expected",
    [
        ("float", "1", "1.0"),
        ("float", "-0.0", "-0.0"),
        ("float", "0.1", "0.1"),
        ("float", "0.333333333333", "0.333333343"),
        ("float", "100000", "100000.0"),
        ("float", "1000000", "1e+06"),
        ("float", "1234567", "1234567.0"),
        ("float", "16777216", "16777216.0"),
        ("float", "1e10", "1e+10"),
        ("float", "0.00001", "1e-05"),
        ("float", "0.0001", "0.0001"),
        ("float", "3.4028234663852886e38", "3.40282347e+38"),
        ("float", "1e39", "Infinity"),
        ("float", "-1e39", "-Infinity"),
        ("float", "1e-50", "0.0"),
        ("double", "0.1", "0.1"),
        ("double", "1e300", "1e+300"),
        ("double", "0.3333333333333333", "0.33333333333333331"),
        ("double", "1234567", "1234567.0"),
        ("double", "0.1234567", "0.1234567"),
        ("double", "123456789012", "123456789012.0"),
        ("int64", "1000000", "1000000"),
    ],
)
def test_digits_of_numbers(server, signature, value, expected):
    response = post(server, ECHO, f'{{"signature_name": "{signature}", "instances": [{value}]}}')
    assert response.text == f'{{\n    "predictions": [{expected}\n    ]\n}}'


@pytest.mark.parametrize(
    "signature, dtype, digits", [("float", np.float32, 9), ("double", np.float64, 17)]
)
def test_digits_are_six_or_enough_to_read_the_value_back(server, signature, dtype, digits):
    rng = np.random.default_rng(0)
    values = (rng.normal(size=200) * 10.0 ** rng.integers(-30, 30, 200)).astype(dtype)
    values = np.concatenate([values, np.round(rng.normal(size=200), 3).astype(dtype)])
    body = {"signature_name": signature, "instances": values.tolist()}
    words = re.findall(r"[^\s,\[\]]+", post(server, ECHO, body).text.split(":")[1][:-1])
    assert len(words) == 400
    for value, word in zip(values, words, strict=True):
        short = f"{value:.6g}"
        expected = short if dtype(short) == value else f"{value:.{digits}g}"
        assert word == expected if {".", "e"} & set(expected) else word == expected + ".0"


@pytest.mark.parametrize(
    "signature, request_, response",
    [
        ("float", '"instances": [2.5, 3.0, 4.5]', '"predictions": [2.5, 3.0, 4.5\n    ]'),
        ("float", '"instances": [[1, 2], [3, 4]]', '"predictions": [[1.0, 2.0], [3.0, 4.0]\n    ]'),
        ("text", '"instances": ["a", "b"]', '"predictions": ["a", "b"\n    ]'),
        ("float", '"inputs": [2.5, 3.0]', '"outputs": [\n        2.5,\n        3.0\n    ]'),
        ("int32", '"inputs": [[1], [2]]',
         '"outputs": [\n        [\n            1\n        ],\n'
         '        [\n            2\n        ]\n    ]'),
        ("float", '"inputs": 1', '"outputs": 1.0'),
        ("float", '"inputs": []', '"outputs": []'),
    ],
)  # fmt: skip
def test_whitespace(server, signature, request_, response):
    text = post(server, ECHO, f'{{"signature_name": "{signature}", {request_}}}').text
    assert text == f"{{\n    {response}\n}}"


@pytest.fixture(scope="module")
def files(images_dir):
    return [path.read_bytes() for path in sorted((images_dir / "test").glob("*/0000.jpg"))]


@pytest.fixture(scope="module")
def embeddings(predictions, files):
    request = predict_pb2.PredictRequest(
        model_spec=model_pb2.ModelSpec(name="byol"),
        inputs={"image_bytes": tf.make_tensor_proto(files)},
    )
    response = predictions.Predict(request, timeout=TIMEOUT)
    return tf.make_ndarray(response.outputs["embedding"])


@pytest.mark.parametrize("form", ["plain rows", "objects", "bare column", "column"])
def test_embeddings_are_those_of_grpc(server, files, embeddings, form):
    images = [encoded(file) for file in files]
    body = {
        "plain rows": {"instances": images},
        "objects": {"instances": [{"image_bytes": image} for image in images]},
        "bare column": {"inputs": images},
        "column": {"inputs": {"image_bytes": images}},
    }[form]
    (result,) = answer(post(server, "byol:predict", body)).values()
    assert np.shape(result) == (10, 128)
    np.testing.assert_allclose(result, embeddings, rtol=0, atol=1e-5)


def test_pixels_are_rows_of_numbers(server, predictions, files):
    pixels = tf.io.decode_jpeg(files[0], channels=3).numpy()
    request = predict_pb2.PredictRequest(
        model_spec=model_pb2.ModelSpec(name="byol", signature_name="pixels"),
        inputs={"images": tf.make_tensor_proto(pixels[np.newaxis])},
    )
    expected = tf.make_ndarray(predictions.Predict(request, timeout=TIMEOUT).outputs["embedding"])
    body = {"signature_name": "pixels", "instances": [pixels.tolist()]}
    result = answer(post(server, "byol:predict", body))["predictions"]
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)


EXAMPLES = [{"x": 1.0}]
INFERENCE_ERRORS = {
    "unknown model": ("nope:classify", {"examples": EXAMPLES}, 404),
    "unknown version": ("echo/versions/7:classify", {"examples": EXAMPLES}, 404),
    "unknown label": ("echo/labels/dev:classify", {"examples": EXAMPLES}, 400),
    "unknown signature": ("echo:classify", {"signature_name": "nope", "examples": EXAMPLES}, 400),
    "another form": ("half_plus:classify", {"examples": EXAMPLES}, 400),
    "two inputs": ("echo:classify", {"signature_name": "two", "examples": EXAMPLES}, 400),
    "bad body, unknown model": ("nope:classify", "{", 400),
    "bad feature, unknown model": ("nope:classify", {"examples": [{"x": None}]}, 400),
    "bad signature_name": ("echo:classify", {"signature_name": 1, "examples": EXAMPLES}, 400),
    "no examples": ("nope:classify", {}, 400),
    "empty examples": ("echo:classify", {"signature_name": "classify_like", "examples": []}, 400),
    "examples in an object": ("nope:classify", {"examples": {"x": 1.0}}, 400),
    "an example that is no object": ("nope:classify", {"examples": [1.0]}, 400),
    "context that is no object": ("nope:classify", {"context": 1, "examples": EXAMPLES}, 400),
    "mixed kinds": ("nope:classify", {"examples": [{"x": [1, 2.0]}]}, 400),
    "text among numbers": ("nope:classify", {"examples": [{"x": ["a", 1]}]}, 400),
    "nested list": ("nope:classify", {"examples": [{"x": [[1]]}]}, 400),
    "other object": ("nope:classify", {"examples": [{"x": {"y": 1}}]}, 400),
    "bad base64": ("nope:classify", {"examples": [{"x": {"b64": "_-8="}}]}, 400),
    "form that fits": (
        "echo:classify",
        {
            "signature_name": "classify_like",
            "context": {"a": encoded(b"\xff")},
            "examples": [{"x": [1, 2], "y": 0.5, "z": ["a", encoded(b"b")], "t": True}],
        },
        501,
    ),
}


@pytest.mark.parametrize("path, body, code", INFERENCE_ERRORS.values(), ids=INFERENCE_ERRORS)
def test_classify_errors(server, path, body, code):
    assert error(post(server, path, body))[0] == code


@pytest.mark.parametrize(
    "path, body, code",
    [
        ("nope:regress", {"examples": EXAMPLES}, 404),
        ("half_plus:regress", {"examples": EXAMPLES}, 400),
        ("echo:regress", {"signature_name": "classify_like", "examples": EXAMPLES}, 400),
        ("nope:regress", {"examples": [{"x": [1, 2.0]}]}, 400),
    ],
)
def test_regress_errors(server, path, body, code):
    assert error(post(server, path, body))[0] == code


def version_status(version):
    status = {"error_code": "OK", "error_message": ""}
    return {"version": str(version), "state": "AVAILABLE", "status": status}


@pytest.mark.parametrize(
    "path, versions",
    [
        ("half_plus", [3, 2]),
        ("half_plus/versions/2", [2]),
        ("half_plus/labels/stable", [3, 2]),
        ("half_plus/labels/dev", [3, 2]),
        ("byol", [1]),
    ],
)
def test_status_is_protobuf_json(server, path, versions):
    response = get(server, path)
    assert response.status_code == 200 and response.headers["Content-Type"] == "application/json"
    expected = {"model_version_status": [version_status(version) for version in versions]}
    assert response.text.rstrip("\n") == json.dumps(expected, indent=1)


@pytest.mark.parametrize(
    "path", ["/V1/models/half_plus", "/v1/MODELS/half_plus", "/v1/Models/half_plus"]
)
def test_path_words_ignore_case(server, path):
    assert len(answer(send(server, "GET", path))["model_version_status"]) == 2


def test_status_of_an_unknown_version(server):
    code, message = error(get(server, "half_plus/versions/7"))
    assert code == 404 and "Could not find version 7 of model half_plus" in message


@pytest.mark.parametrize(
    "path, version",
    [
        ("half_plus/metadata", "3"),
        ("half_plus/METADATA", "3"),
        ("half_plus/versions/2/metadata", "2"),
        ("half_plus/labels/stable/metadata", "2"),
    ],
)
def test_metadata_are_protobuf_json(server, path, version):
    response = get(server, path)
    body = answer(response)
    assert response.headers["Content-Type"] == "application/json" and response.text.endswith("}\n")
    assert body["model_spec"] == {"name": "half_plus", "signature_name": "", "version": version}
    assert list(body["metadata"]) == ["signature_def"]
    signatures = body["metadata"]["signature_def"]["signature_def"]
    assert signatures.keys() == {"serving_default", "__saved_model_init_op"}
    shape = {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    tensor = {"dtype": "DT_FLOAT", "tensor_shape": shape, "name": "serving_default_x:0"}
    assert signatures["serving_default"] == {
        "inputs": {"x": tensor},
        "outputs": {"y": tensor | {"name": "StatefulPartitionedCall:0"}},
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }


@pytest.mark.parametrize(
    "path, code, fragment",
    [
        ("nope/metadata", 404, "Servable not found for request: Latest(nope)"),
        (
            "half_plus/versions/7/metadata",
            404,
            "Servable not found for request: Specific(half_plus, 7)",
        ),
        ("half_plus/labels/dev/metadata", 400, "Unrecognized servable version label: dev"),
    ],
)
def test_metadata_errors(server, path, code, fragment):
    answered, message = error(get(server, path))
    assert answered == code and fragment in message


METRICS = "/monitoring/prometheus/metrics"
SAMPLE = re.compile(r"^([:\w]+?)(?:{(.*)})? (\S+)$", re.MULTILINE)


def read_metrics(server):
    """Returns the value of each metric by name and labels."""
    response = send(server, "GET", METRICS)
    assert response.status_code == 200 and response.headers["Content-Type"].startswith("text/plain")
    return {
        (name, frozenset(re.findall(r'(\w+)="(.*?)"', labels))): float(value)
        for name, labels, value in SAMPLE.findall(response.text)
    }


def growth(server, act, name, **labels):
    key = (":tensorflow:serving:" + name, frozenset(labels.items()))
    before = read_metrics(server).get(key, 0)
    act()
    return read_metrics(server).get(key, 0) - before


@pytest.mark.parametrize(
    "method, path, model, status",
    [
        ("POST", "half_plus:predict", "half_plus", "OK"),
        ("GET", "half_plus", "half_plus", "OK"),
        ("GET", "half_plus/metadata", "half_plus", "OK"),
        ("POST", "half_plus/versions/7:predict", "half_plus", "NOT_FOUND"),
        ("POST", "nope:predict", "", "NOT_FOUND"),
    ],
)
def test_rest_requests_are_counted(server, method, path, model, status):
    body = GOOD if method == "POST" else None

    def act():
        send(server, method, "/v1/models/" + path, body)

    assert growth(server, act, "request_count", model_name=model, status=status) == 1


def grpc_predict(predictions, **fields):
    request = predict_pb2.PredictRequest(
        model_spec=model_pb2.ModelSpec(name="half_plus", **fields),
        inputs={"x": tf.make_tensor_proto([1.0])},
    )
    try:
        predictions.Predict(request, timeout=TIMEOUT)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"


@pytest.mark.parametrize("signature, status", [("", "OK"), ("nope", "FAILED_PRECONDITION")])
def test_grpc_requests_are_counted(server, predictions, signature, status):
    def act():
        assert grpc_predict(predictions, signature_name=signature) == status

    assert growth(server, act, "request_count", model_name="half_plus", status=status) == 1


@pytest.mark.parametrize("api, entrypoint", [("predict", "REST"), ("Predict", "GRPC")])
def test_latency_is_measured_for_successes(server, predictions, api, entrypoint):
    def act():
        if entrypoint == "REST":
            post(server, HALF, GOOD)
            post(server, HALF, "{")
        else:
            grpc_predict(predictions)
            grpc_predict(predictions, signature_name="nope")

    labels = {"model_name": "half_plus", "API": api, "entrypoint": entrypoint}
    assert growth(server, act, "request_latency_count", **labels) == 1
    assert growth(server, act, "request_latency_sum", **labels) > 0


def test_runtime_is_measured(server):
    labels = {"model_name": "half_plus", "API": "Predict", "runtime": "TF1"}
    assert growth(server, lambda: post(server, HALF, GOOD), "runtime_latency_count", **labels) == 1


def test_latency_buckets_grow_by_powers(server):
    post(server, HALF, GOOD)
    bounds = {
        float(dict(labels)["le"])
        for name, labels in read_metrics(server)
        if name == ":tensorflow:serving:request_latency_bucket"
    }
    assert math.inf in bounds
    finite = sorted(bounds - {math.inf})
    np.testing.assert_allclose(finite, [10 * 1.8**k for k in range(len(finite))], rtol=1e-4)
    assert len(finite) in (32, 33)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_metrics_have_types_and_no_help(server, method):
    text = send(server, method, METRICS).text
    types = dict(re.findall("^# TYPE (.*) (.*)$", text, re.MULTILINE))
    assert types[":tensorflow:serving:request_count"] == "counter"
    assert types[":tensorflow:serving:request_latency"] == "histogram"
    assert types[":tensorflow:serving:runtime_latency"] == "histogram"
    assert not [name for name in types if "/" in name]
    assert "# HELP" not in text


def test_metrics_are_listed_without_samples(server):
    names = {"request_count", "request_latency", "runtime_latency", "model_warmup_latency"}
    text = send(server, "GET", METRICS).text
    assert names <= set(re.findall("^# TYPE :tensorflow:serving:(.*) ", text, re.MULTILINE))


def test_metrics_take_no_query_string(server):
    assert send(server, "GET", METRICS + "?x=1").status_code == 400

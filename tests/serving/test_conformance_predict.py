"""gRPC Predict as TensorFlow Serving 2.15 answers it: results, form of the response, errors."""

import time

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import wrappers_pb2
from grpc import StatusCode
from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_service_pb2_grpc

TIMEOUT = 60
TOLERANCE = 1e-5


def version(number):
    return wrappers_pb2.Int64Value(value=number)


def make_request(name, signature="", outputs=(), spec=None, **inputs):
    spec = model_pb2.ModelSpec(name=name, signature_name=signature, **(spec or {}))
    result = predict_pb2.PredictRequest(model_spec=spec, output_filter=outputs)
    for alias, value in inputs.items():
        result.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
    return result


def predict(stub, *arguments, **inputs):
    """Returns the outputs as arrays."""
    outputs = stub.Predict(make_request(*arguments, **inputs), timeout=TIMEOUT).outputs
    return {alias: tf.make_ndarray(value) for alias, value in outputs.items()}


def error(stub, request, timeout=TIMEOUT):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request, timeout=timeout)
    return caught.value.code(), caught.value.details()


@pytest.fixture(scope="module")
def loaded(encoder_dir):
    return tf.saved_model.load(str(encoder_dir / "1"))


@pytest.fixture(scope="module")
def files(images_dir):
    return [path.read_bytes() for path in sorted((images_dir / "test").glob("*/0000.jpg"))]


def encoder_input(signature, files):
    if signature == "pixels":
        return np.stack([tf.io.decode_jpeg(file, channels=3).numpy() for file in files])
    if signature == "examples":
        features = [tf.train.Feature(bytes_list=tf.train.BytesList(value=[file])) for file in files]
        examples = [{"image/encoded": feature} for feature in features]
        examples = [
            tf.train.Example(features=tf.train.Features(feature=example)) for example in examples
        ]
        return [example.SerializeToString() for example in examples]
    return files


ENCODER_SIGNATURES = [
    ("serving_default", "image_bytes"),
    ("pixels", "images"),
    ("examples", "examples"),
]


@pytest.mark.parametrize("signature, alias", ENCODER_SIGNATURES)
def test_embeddings_equal_those_of_the_loaded_export(predictions, loaded, files, signature, alias):
    assert len(files) == 10
    value = encoder_input(signature, files)
    expected = loaded.signatures[signature](**{alias: tf.constant(value)})["embedding"].numpy()
    (embedding,) = predict(predictions, "byol", signature, **{alias: value}).values()
    assert embedding.dtype == np.float32 and embedding.shape == (10, 128)
    assert np.abs(expected - expected[0])[1:].max(axis=1).min() > 100 * TOLERANCE, (
        "images must differ"
    )
    np.testing.assert_allclose(embedding, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("signature, alias", ENCODER_SIGNATURES)
def test_no_images_give_no_embeddings(predictions, signature, alias):
    nothing = np.zeros((0, 7, 9, 3), np.uint8) if signature == "pixels" else np.zeros(0, object)
    dtype = tf.uint8 if signature == "pixels" else tf.string
    result = predict(
        predictions, "byol", signature, **{alias: tf.make_tensor_proto(nothing, dtype)}
    )
    assert result["embedding"].shape == (0, 128)


def test_a_file_that_is_no_image_is_an_invalid_argument(predictions, files):
    code, message = error(predictions, make_request("byol", image_bytes=[files[0], b"no image"]))
    assert code == StatusCode.INVALID_ARGUMENT and message


@pytest.mark.parametrize("asked", ["", "serving_default", "text"])
def test_the_response_names_model_version_and_resolved_signature(predictions, asked):
    value = ["a"] if asked == "text" else [1.0]
    spec = predictions.Predict(make_request("echo", asked, value=value), timeout=TIMEOUT).model_spec
    expected = model_pb2.ModelSpec(
        name="echo", signature_name=asked or "serving_default", version=version(1)
    )
    assert spec == expected


@pytest.mark.parametrize(
    "spec, served",
    [
        ({}, 3),
        ({"version": version(2)}, 2),
        ({"version": version(3)}, 3),
        ({"version_label": "stable"}, 2),
        ({"version_label": "canary"}, 3),
    ],
    ids=["highest", "2", "3", "stable", "canary"],
)
def test_the_version_asked_for_answers(predictions, spec, served):
    response = predictions.Predict(
        make_request("half_plus", spec=spec, x=[1.0, 4.0]), timeout=TIMEOUT
    )
    assert list(response.outputs["y"].float_val) == [0.5 + served, 2.0 + served]
    assert response.model_spec.WhichOneof("version_choice") == "version"
    assert response.model_spec.version.value == served


OUTPUT_FIELDS = [
    ("float", "float_val", [0.5, -3.25]),
    ("double", "double_val", [0.1, -1e300]),
    ("int8", "int_val", [-128, 127]),
    ("int16", "int_val", [-32768, 32767]),
    ("int32", "int_val", [-(2**31), 2**31 - 1]),
    ("int64", "int64_val", [-(2**63), 2**63 - 1]),
    ("uint8", "int_val", [0, 255]),
    ("uint32", "uint32_val", [0, 2**32 - 1]),
    ("uint64", "uint64_val", [0, 2**64 - 1]),
    ("bool", "bool_val", [True, False]),
    ("text", "string_val", [b"\xff\x00", b""]),
]


@pytest.mark.parametrize(
    "signature, field, values", OUTPUT_FIELDS, ids=[row[0] for row in OUTPUT_FIELDS]
)
def test_outputs_come_in_the_field_of_their_type(predictions, signature, field, values):
    dtype = (
        tf.string
        if signature == "text"
        else tf.dtypes.as_dtype(signature.replace("float", "float32"))
    )
    array = np.array([values], dtype.as_numpy_dtype)  # From a list, uint64 would go by float64.
    request = make_request("echo", signature, value=tf.make_tensor_proto(array, dtype))
    output = predictions.Predict(request, timeout=TIMEOUT).outputs["value"]
    assert output.dtype == dtype.as_datatype_enum and output.tensor_content == b""
    assert list(getattr(output, field)) == values
    assert [dim.size for dim in output.tensor_shape.dim] == [1, 2]


def test_half_outputs_come_as_their_bits(predictions):
    request = make_request("echo", "half", value=tf.make_tensor_proto([1.5, -2.0], tf.float16))
    output = predictions.Predict(request, timeout=TIMEOUT).outputs["value"]
    assert output.dtype == tf.float16.as_datatype_enum and output.tensor_content == b""
    assert list(output.half_val) == [0x3E00, 0xC000]


def test_nan_and_infinities_pass(predictions):
    values = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32)
    output = predict(predictions, "echo", value=values)["value"]
    np.testing.assert_array_equal(output, values)
    assert np.signbit(output[3])


@pytest.mark.parametrize(
    "values", [{"float_val": [1.0, 3.0]}, {"tensor_content": b"\0\0\x80?\0\0@@"}]
)
def test_inputs_come_in_either_form(predictions, values):
    tensor = tf.make_tensor_proto([1.0, 3.0], tf.float32)
    for field in ("float_val", "tensor_content"):
        tensor.ClearField(field)
    tensor = type(tensor)(dtype=tensor.dtype, tensor_shape=tensor.tensor_shape, **values)
    np.testing.assert_array_equal(predict(predictions, "half_plus", x=tensor)["y"], [3.5, 4.5])


@pytest.mark.parametrize(
    "signature, value, field, expected",
    [
        ("scalar", [1.0, 2.5], "float_val", 3.5),
        ("float", 1.5, "float_val", 1.5),
        ("text", "a", "string_val", b"a"),
        ("bytes", b"\xff", "string_val", b"\xff"),
    ],
)
def test_scalars_have_no_dimensions(predictions, signature, value, field, expected):
    response = predictions.Predict(make_request("echo", signature, value=value), timeout=TIMEOUT)
    (output,) = response.outputs.values()
    assert list(getattr(output, field)) == [expected]
    assert not output.tensor_shape.dim and not output.tensor_shape.unknown_rank


def test_empty_tensors_keep_their_shape(predictions):
    value = predict(predictions, "echo", value=np.zeros((3, 0, 2), np.float32))["value"]
    assert value.shape == (3, 0, 2)


def test_shapes_are_left_to_the_graph(predictions):
    value = np.array([[1, 2], [3, 4]], np.float32)
    np.testing.assert_array_equal(predict(predictions, "half_plus", x=value)["y"], value / 2 + 3)


@pytest.mark.parametrize("outputs", [(), ("sum",), ("text",), ("text", "sum")])
def test_only_filtered_outputs_come(predictions, outputs):
    result = predict(predictions, "echo", "two", outputs, a=[[1.0, 2.0], [3.0, 4.0]], b=["x", "y"])
    assert result.keys() == set(outputs or ("sum", "text"))
    expected = {"sum": [3.0, 7.0], "text": [b"x", b"y"]}
    for alias, value in result.items():
        assert value.tolist() == expected[alias]


NO_SPEC = make_request("", x=[1.0])
NO_SPEC.ClearField("model_spec")
WITH_BAD_CONTENT = tf.make_tensor_proto([1.0, 2.0], tf.float32)
WITH_BAD_CONTENT.tensor_content = b"\0\0"
WITH_BAD_CONTENT.ClearField("float_val")

NOT_FOUND, INVALID = StatusCode.NOT_FOUND, StatusCode.INVALID_ARGUMENT
MISTAKES = {
    "no model_spec": (NO_SPEC, INVALID, "Missing ModelSpec"),
    "empty name": (make_request("", x=[1.0]), INVALID, "ModelSpec has no name specified."),
    "unknown model": (
        make_request("nope", x=[1.0]),
        NOT_FOUND, "Servable not found for request: Latest(nope)",
    ),
    "unknown version": (
        make_request("half_plus", spec={"version": version(7)}, x=[1.0]),
        NOT_FOUND, "Servable not found for request: Specific(half_plus, 7)",
    ),
    "version zero": (
        make_request("half_plus", spec={"version": version(0)}, x=[1.0]),
        NOT_FOUND, "Servable not found for request: Specific(half_plus, 0)",
    ),
    "version of an unknown model": (
        make_request("nope", spec={"version": version(1)}, x=[1.0]),
        NOT_FOUND, "Servable not found for request: Specific(nope, 1)",
    ),
    "unknown label": (
        make_request("half_plus", spec={"version_label": "dev"}, x=[1.0]),
        INVALID, "Unrecognized servable version label: dev",
    ),
    "label of an unknown model": (
        make_request("nope", spec={"version_label": "stable"}, x=[1.0]),
        INVALID, "Unrecognized servable version label: stable",
    ),
    "unknown signature": (
        make_request("half_plus", "nope", x=[1.0]),
        StatusCode.FAILED_PRECONDITION, 'Serving signature key "nope" not found.',
    ),
    "missing input": (
        make_request("echo", "two", a=[1.0]),
        INVALID,
        "input size does not match signature: 1!=2 len({a}) != len({a,b}). "
        "Sent extra: {}. Missing but required: {b}.",
    ),
    "no inputs": (
        make_request("echo", "two"),
        INVALID,
        "input size does not match signature: 0!=2 len({}) != len({a,b}). "
        "Sent extra: {}. Missing but required: {a,b}.",
    ),
    "unexpected input": (
        make_request("echo", "two", c=[1.0], b=["x"], a=[1.0]),
        INVALID,
        "input size does not match signature: 3!=2 len({a,b,c}) != len({a,b}). "
        "Sent extra: {c}. Missing but required: {}.",
    ),
    "other input": (
        make_request("echo", "two", d=[1.0]),
        INVALID,
        "input size does not match signature: 1!=2 len({d}) != len({a,b}). "
        "Sent extra: {d}. Missing but required: {a,b}.",
    ),
    "same count, wrong name": (make_request("half_plus", z=[1.0]), INVALID, ""),
    "malformed tensor": (make_request("half_plus", x=WITH_BAD_CONTENT), INVALID, ""),
    "wrong type": (
        make_request("half_plus", x=["one"]),
        INVALID, "to be float but string is provided",
    ),
    "wrong type of the second input": (
        make_request("echo", "two", a=[1.0], b=[1.0]),
        INVALID, "to be string but float is provided",
    ),
    "shape that fails a kernel": (make_request("echo", "two", a=1.0, b=["x"]), INVALID, ""),
    "unknown output": (
        make_request("echo", "two", ("sum", "z"), a=[1.0], b=["x"]),
        INVALID,
        "output tensor alias not found in signature: z Outputs expected to be in the set {",
    ),
    "repeated output": (
        make_request("half_plus", outputs=("y", "y"), x=[1.0]),
        INVALID, "duplicate output tensor alias: y",
    ),
}  # fmt: skip


@pytest.mark.parametrize("request_, code, fragment", MISTAKES.values(), ids=MISTAKES)
def test_mistakes_get_their_code_and_text(predictions, request_, code, fragment):
    answered, message = error(predictions, request_)
    assert answered == code and message and fragment in message


def test_int_for_float_is_the_wrong_type(predictions):
    code, message = error(predictions, make_request("half_plus", x=np.array([1], np.int32)))
    assert code == INVALID and "Expects arg[0] to be float but int32 is provided" in message


def test_long_messages_are_truncated(predictions):
    code, message = error(predictions, make_request("m" * 3000, x=[1.0]))
    beginning = "Servable not found for request: Latest("
    assert code == NOT_FOUND and message.startswith(beginning)
    assert message == beginning + "m" * (1024 - len(beginning)) + "...TRUNCATED"


def test_a_deadline_during_the_run_is_exceeded(predictions):
    start = time.monotonic()
    code, _ = error(predictions, make_request("echo", "slow", seconds=[20.0]), timeout=0.5)
    assert code == StatusCode.DEADLINE_EXCEEDED and time.monotonic() - start < 5
    assert predict(predictions, "echo", value=[1.0])["value"] == [1.0]


def test_requests_need_not_fit_in_four_mebibytes(predictions):
    value = np.ones((3 << 20, 1), np.float32)
    assert predict(predictions, "echo", "scalar", value=value)["total"] == 3 << 20


def test_a_response_above_the_channels_limit_is_resource_exhausted(server, predictions):
    request = make_request("echo", value=np.ones(3 << 20, np.float32))
    code, _ = error(predictions, request)
    assert code == StatusCode.RESOURCE_EXHAUSTED
    with grpc.insecure_channel(
        server.address, [("grpc.max_receive_message_length", -1)]
    ) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        assert len(stub.Predict(request, timeout=TIMEOUT).outputs["value"].float_val) == 3 << 20

"""gRPC calls other than Predict as TensorFlow Serving 2.15 answers them, health and reflection."""

import time

import grpc
import pytest
import tensorflow as tf
from google.protobuf import wrappers_pb2
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import (
    proto_reflection_descriptor_database,
    reflection_pb2,
    reflection_pb2_grpc,
)
from serve import Server
from tensorflow.core.protobuf import error_codes_pb2, saved_model_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)
from tensorflow_serving.config import file_system_storage_path_source_pb2, model_server_config_pb2

TIMEOUT = 60
INVALID, NOT_FOUND, UNIMPLEMENTED = (
    StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND, StatusCode.UNIMPLEMENTED,
)  # fmt: skip
AVAILABLE, END = (
    get_model_status_pb2.ModelVersionStatus.AVAILABLE, get_model_status_pb2.ModelVersionStatus.END,
)  # fmt: skip


def make_spec(name, version=None, **fields):
    if version is not None:
        fields["version"] = wrappers_pb2.Int64Value(value=version)
    return model_pb2.ModelSpec(name=name, **fields)


def error(call, request):
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=TIMEOUT)
    return caught.value.code(), caught.value.details()


SPEC_MISTAKES = {
    "no model_spec": (None, INVALID, "Missing ModelSpec"),
    "empty name": (make_spec(""), INVALID, "ModelSpec has no name specified."),
    "unknown model": (make_spec("nope"), NOT_FOUND, "Servable not found for request: Latest(nope)"),
    "unknown version": (
        make_spec("echo", 7),
        NOT_FOUND, "Servable not found for request: Specific(echo, 7)",
    ),
    "unknown label": (
        make_spec("echo", version_label="dev"),
        INVALID, "Unrecognized servable version label: dev",
    ),
    "label of an unknown model": (
        make_spec("nope", version_label="stable"),
        INVALID, "Unrecognized servable version label: stable",
    ),
}  # fmt: skip


def metadata_request(spec, *fields):
    return get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=fields)


@pytest.mark.parametrize(
    "spec, version",
    [
        (make_spec("half_plus"), 3),
        (make_spec("half_plus", 2), 2),
        (make_spec("half_plus", version_label="stable"), 2),
        (make_spec("half_plus", signature_name="nope"), 3),
    ],
    ids=["highest", "version", "label", "signature"],
)
def test_metadata_name_model_and_version_only(predictions, spec, version):
    response = predictions.GetModelMetadata(
        metadata_request(spec, "signature_def"), timeout=TIMEOUT
    )
    assert response.model_spec == make_spec("half_plus", version)


@pytest.mark.parametrize("model", ["byol", "echo"])
def test_metadata_hold_every_signature(predictions, encoder_dir, models_dir, model):
    request = metadata_request(make_spec(model), "signature_def")
    metadata = predictions.GetModelMetadata(request, timeout=TIMEOUT).metadata
    assert list(metadata) == ["signature_def"]
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert metadata["signature_def"].Unpack(signatures)
    path = (encoder_dir if model == "byol" else models_dir / "echo") / "1" / "saved_model.pb"
    (meta_graph,) = saved_model_pb2.SavedModel.FromString(path.read_bytes()).meta_graphs
    assert dict(signatures.signature_def) == dict(meta_graph.signature_def)


@pytest.mark.parametrize("spec, code, fragment", SPEC_MISTAKES.values(), ids=SPEC_MISTAKES)
def test_metadata_of_a_wrong_model_spec(predictions, spec, code, fragment):
    answered, message = error(predictions.GetModelMetadata, metadata_request(spec, "signature_def"))
    assert answered == code and fragment in message


@pytest.mark.parametrize("name", ["echo", "nope"])
@pytest.mark.parametrize("fields", [(), ("graph",), ("signature_def", "graph"), ("",)])
def test_metadata_fields_are_checked_before_the_model(predictions, name, fields):
    code, _ = error(predictions.GetModelMetadata, metadata_request(make_spec(name), *fields))
    assert code == INVALID


def get_status(stub, spec):
    request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
    return stub.GetModelStatus(request, timeout=TIMEOUT).model_version_status


@pytest.mark.parametrize(
    "spec, versions",
    [
        (make_spec("half_plus"), [3, 2]),
        (make_spec("half_plus", 2), [2]),
        (make_spec("half_plus", version_label="stable"), [3, 2]),
        (make_spec("half_plus", version_label="dev"), [3, 2]),
        (make_spec("byol"), [1]),
    ],
    ids=["all", "version", "label", "unknown label", "byol"],
)
def test_status_lists_versions_from_the_highest(models, spec, versions):
    statuses = get_status(models, spec)
    assert [status.version for status in statuses] == versions
    for status in statuses:
        assert status.state == AVAILABLE
        assert status.status.error_code == error_codes_pb2.OK and status.status.error_message == ""


@pytest.mark.parametrize(
    "spec, code, fragment",
    [
        (None, INVALID, "Missing ModelSpec"),
        (make_spec(""), NOT_FOUND, "Could not find any versions of model "),
        (make_spec("nope"), NOT_FOUND, "Could not find any versions of model nope"),
        (
            make_spec("nope", version_label="dev"),
            NOT_FOUND,
            "Could not find any versions of model nope",
        ),
        (make_spec("half_plus", 7), NOT_FOUND, "Could not find version 7 of model half_plus"),
        (make_spec("nope", 1), NOT_FOUND, "Could not find version 1 of model nope"),
        (make_spec("half_plus", 0), NOT_FOUND, "Could not find version 0 of model half_plus"),
    ],
)
def test_status_of_a_wrong_model_spec(models, spec, code, fragment):
    request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
    answered, message = error(models.GetModelStatus, request)
    assert answered == code and fragment in message


REQUESTS = {
    "Classify": classification_pb2.ClassificationRequest,
    "Regress": regression_pb2.RegressionRequest,
}
EXAMPLES = input_pb2.Input(example_list=input_pb2.ExampleList(examples=[tf.train.Example()]))
WITH_CONTEXT = input_pb2.Input(
    example_list_with_context=input_pb2.ExampleListWithContext(
        examples=[tf.train.Example()], context=tf.train.Example()
    )
)
EMPTY_INPUTS = {
    "missing": None,
    "no kind": input_pb2.Input(),
    "example_list": input_pb2.Input(example_list=input_pb2.ExampleList()),
    "example_list_with_context": input_pb2.Input(
        example_list_with_context=input_pb2.ExampleListWithContext(context=tf.train.Example())
    ),
}


def infer_error(stub, call, spec, examples=EXAMPLES):
    request = REQUESTS[call](model_spec=spec, input=examples)
    return error(getattr(stub, call), request)


@pytest.mark.parametrize("call", REQUESTS)
@pytest.mark.parametrize("spec, code, fragment", SPEC_MISTAKES.values(), ids=SPEC_MISTAKES)
def test_inference_on_a_wrong_model_spec(predictions, call, spec, code, fragment):
    answered, message = infer_error(predictions, call, spec)
    assert answered == code and fragment in message


@pytest.mark.parametrize("call", REQUESTS)
@pytest.mark.parametrize(
    "name, signature, fragment",
    [
        ("echo", "nope", "No signature was found with the name: nope"),
        ("echo", "two", "Expected one input Tensor."),
        ("echo", "float", "inputs found in SignatureDef: "),
        ("byol", "examples", "inputs found in SignatureDef: "),
    ],
)
def test_inference_on_signatures_of_another_form_is_invalid(
    predictions, call, name, signature, fragment
):
    answered, message = infer_error(predictions, call, make_spec(name, signature_name=signature))
    assert answered == INVALID and fragment in message


def test_classification_on_another_form_says_so(predictions):
    _, message = infer_error(predictions, "Classify", make_spec("half_plus"))
    assert (
        message.startswith("No classification inputs found in SignatureDef: ") and '"x"' in message
    )


def test_regression_needs_the_output_outputs(predictions):
    code, _ = infer_error(predictions, "Regress", make_spec("echo", signature_name="classify_like"))
    assert code == INVALID


@pytest.mark.parametrize("examples", EMPTY_INPUTS.values(), ids=EMPTY_INPUTS)
def test_empty_input_is_invalid(predictions, examples):
    spec = make_spec("echo", signature_name="classify_like")
    code, message = infer_error(predictions, "Classify", spec, examples)
    assert code == INVALID and "Input is empty." in message


@pytest.mark.parametrize("examples", [EXAMPLES, WITH_CONTEXT], ids=["plain", "context"])
def test_classify_is_unimplemented_where_the_signature_fits(predictions, examples):
    spec = make_spec("echo", signature_name="classify_like")
    assert infer_error(predictions, "Classify", spec, examples)[0] == UNIMPLEMENTED


def test_multi_inference_is_unimplemented(predictions):
    spec = make_spec("echo", signature_name="classify_like")
    task = inference_pb2.InferenceTask(model_spec=spec, method_name="tensorflow/serving/classify")
    request = inference_pb2.MultiInferenceRequest(tasks=[task], input=EXAMPLES)
    assert error(predictions.MultiInference, request)[0] == UNIMPLEMENTED


def test_the_session_service_is_not_registered(channel):
    call = channel.unary_unary("/tensorflow.serving.SessionService/SessionRun")
    assert error(call, b"")[0] == UNIMPLEMENTED


@pytest.mark.parametrize("service", ["", "PredictionService", "ModelService"])
def test_services_are_healthy(channel, service):
    request = health_pb2.HealthCheckRequest(service=service)
    response = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT)
    assert response.status == health_pb2.HealthCheckResponse.SERVING


def test_health_of_another_service_is_not_found(channel):
    request = health_pb2.HealthCheckRequest(service="half_plus")
    assert error(health_pb2_grpc.HealthStub(channel).Check, request)[0] == NOT_FOUND


def test_reflection_lists_the_services(channel):
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    (response,) = stub.ServerReflectionInfo(iter([request]), timeout=TIMEOUT)
    names = {service.name for service in response.list_services_response.service}
    assert names >= {
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
        "grpc.health.v1.Health",
    }


METHODS = {
    "PredictionService": {"Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata"},
    "ModelService": {"GetModelStatus", "HandleReloadConfigRequest"},
}


@pytest.mark.parametrize("name, methods", METHODS.items(), ids=METHODS)
def test_reflection_describes_the_services(channel, name, methods):
    database = proto_reflection_descriptor_database.ProtoReflectionDescriptorDatabase(channel)
    file = database.FindFileContainingSymbol(f"tensorflow.serving.{name}")
    (service,) = [service for service in file.service if service.name == name]
    assert {method.name for method in service.method} == methods
    for dependency in file.dependency:
        assert database.FindFileByName(dependency).name == dependency


def make_config(name, path, platform="tensorflow", versions=None, **labels):
    source = file_system_storage_path_source_pb2.FileSystemStoragePathSourceConfig
    policy = source.ServableVersionPolicy()
    if versions:
        policy.specific.versions.extend(versions)
    else:
        policy.all.SetInParent()
    return model_server_config_pb2.ModelConfig(
        name=name,
        base_path=str(path),
        model_platform=platform,
        model_version_policy=policy,
        version_labels=labels,
    )


def reload_request(*configs):
    config_list = model_server_config_pb2.ModelConfigList(config=configs)
    config = model_server_config_pb2.ModelServerConfig(model_config_list=config_list)
    return model_management_pb2.ReloadConfigRequest(config=config)


@pytest.fixture(scope="module")
def own_channel(models_dir, tmp_path_factory):
    """Channel to a server that only the tests of reloading use."""
    folder = tmp_path_factory.mktemp("reloading")
    config = reload_request(make_config("kept", models_dir / "half_plus")).config
    (folder / "models.config").write_text(str(config))
    flags = (
        "--allow_reload_config",
        "--max_num_load_retries=0",
        "--file_system_poll_wait_seconds=0.2",
    )
    with (
        Server(folder / "log", f"--model_config_file={folder}/models.config", *flags) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        yield channel


@pytest.fixture
def kept(models_dir):
    return make_config("kept", models_dir / "half_plus")


@pytest.fixture
def own_models(own_channel, kept):
    """ModelService of that server, reset to the one model `kept` (versions 2 and 3, no labels)."""
    stub = model_service_pb2_grpc.ModelServiceStub(own_channel)
    reload(stub, kept)
    return stub


@pytest.fixture
def answer(own_channel):
    """Function that returns the output of a half_plus model for 0, which is its b."""
    stub = prediction_service_pb2_grpc.PredictionServiceStub(own_channel)

    def ask(spec):
        request = predict_pb2.PredictRequest(
            model_spec=spec, inputs={"x": tf.make_tensor_proto([0.0])}
        )
        return list(stub.Predict(request, timeout=TIMEOUT).outputs["y"].float_val)[0]

    return ask


def reload(stub, *configs):
    return stub.HandleReloadConfigRequest(reload_request(*configs), timeout=TIMEOUT)


def reload_error(stub, *configs):
    return error(stub.HandleReloadConfigRequest, reload_request(*configs))


def wait_for_state(stub, spec, state):
    end = time.monotonic() + TIMEOUT
    while (status := get_status(stub, spec)[0]).state != state:
        assert time.monotonic() < end, f"not {state}: {status}"
        time.sleep(0.05)
    return status.status


def test_new_models_answer_when_the_reload_returns(own_models, kept, models_dir, answer):
    response = reload(own_models, kept, make_config("new", models_dir / "half_plus", versions=[2]))
    assert response.status.error_code == error_codes_pb2.OK
    assert answer(make_spec("new")) == 2


def test_models_left_out_end_and_stay_listed(own_models, kept, models_dir, answer):
    reload(own_models, kept, make_config("left_out", models_dir / "half_plus", versions=[2]))
    assert answer(make_spec("left_out")) == 2
    reload(own_models, kept)
    status = wait_for_state(own_models, make_spec("left_out", 2), END)
    assert status.error_code == error_codes_pb2.OK
    with pytest.raises(grpc.RpcError, match=r"Servable not found for request: Latest\(left_out\)"):
        answer(make_spec("left_out"))
    assert answer(make_spec("kept")) == 3


def test_the_policy_of_a_known_model_changes(own_models, models_dir, answer):
    reload(own_models, make_config("kept", models_dir / "half_plus", versions=[2]))
    wait_for_state(own_models, make_spec("kept", 3), END)
    assert answer(make_spec("kept")) == 2
    reload(own_models, make_config("kept", models_dir / "half_plus"))
    wait_for_state(own_models, make_spec("kept", 3), AVAILABLE)
    assert answer(make_spec("kept")) == 3


def test_labels_are_replaced_as_a_whole(own_models, models_dir, answer):
    reload(own_models, make_config("kept", models_dir / "half_plus", a=2, b=3))
    assert answer(make_spec("kept", version_label="a")) == 2
    reload(own_models, make_config("kept", models_dir / "half_plus", b=2))
    assert answer(make_spec("kept", version_label="b")) == 2
    with pytest.raises(grpc.RpcError, match="Unrecognized servable version label: a"):
        answer(make_spec("kept", version_label="a"))


@pytest.mark.parametrize("name, version", [("kept", 7), ("fresh", 3)], ids=["version", "model"])
def test_labels_need_an_available_version(own_models, kept, models_dir, answer, name, version):
    reload(own_models, make_config("kept", models_dir / "half_plus", a=2))
    others = [kept] if name != "kept" else []
    labelled = make_config(name, models_dir / "half_plus", a=version)
    assert reload_error(own_models, *others, labelled)[0] == StatusCode.FAILED_PRECONDITION
    assert answer(make_spec("kept", version_label="a")) == 2


INVALID_CONFIGS = {
    "a name twice": [("twice", "", "tensorflow")] * 2,
    "relative path": [("relative", "half_plus", "tensorflow")],
    "no platform": [("no_platform", "", "")],
    "unknown platform": [("other_platform", "", "pytorch")],
    "changed platform": [("kept", "", "pytorch")],
    "a forged log line": [
        ("first", "", "tensorflow"),
        ("name\nE1125 all is lost", "", "tensorflow"),
    ],
    "a path that ends early": [
        ("first", "", "tensorflow"),
        ("null", "/models\0/byol", "tensorflow"),
    ],
    "a label with a tab": [("tab", "", "tensorflow", {"a\tb": 3})],
}


@pytest.mark.parametrize("rows", INVALID_CONFIGS.values(), ids=INVALID_CONFIGS)
def test_invalid_configs_change_nothing(own_models, kept, models_dir, answer, rows):
    configs = [
        make_config(name, path or models_dir / "half_plus", platform, **dict(*labels))
        for name, path, platform, *labels in rows
    ]
    others = [kept] if rows[0][0] != "kept" else []
    assert reload_error(own_models, *others, *configs)[0] == INVALID
    assert answer(make_spec("kept")) == 3


def test_a_reload_without_a_model_list_is_invalid(own_models, answer):
    for config in (None, model_server_config_pb2.ModelServerConfig()):
        request = model_management_pb2.ReloadConfigRequest(config=config)
        assert error(own_models.HandleReloadConfigRequest, request)[0] == INVALID
    custom = model_management_pb2.ReloadConfigRequest()
    custom.config.custom_model_config.SetInParent()
    assert error(own_models.HandleReloadConfigRequest, custom)[0] == INVALID
    assert answer(make_spec("kept")) == 3


def test_a_model_that_cannot_load_fails_the_reload(own_models, kept, tmp_path, answer):
    (tmp_path / "5").mkdir()
    code, message = reload_error(own_models, kept, make_config("broken", tmp_path))
    assert code == StatusCode.UNKNOWN
    assert message.startswith(
        "1 model(s) did not become available: {{name: broken version: 5} due to error: "
    )
    assert message.endswith("}, }")
    assert answer(make_spec("kept")) == 3


def test_a_version_without_its_file_ends_as_not_found(own_models, kept, tmp_path):
    (tmp_path / "5").mkdir()
    reload_error(own_models, kept, make_config("without_file", tmp_path))
    (status,) = get_status(own_models, make_spec("without_file"))
    assert status.version == 5 and status.state == END
    assert status.status.error_code == error_codes_pb2.NOT_FOUND
    assert ".pb" in status.status.error_message
    assert str(tmp_path / "5") in status.status.error_message


def save_regressor(path):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def regress(inputs):
        return {"outputs": tf.zeros([tf.shape(inputs)[0]])}

    tf.saved_model.save(tf.Module(), str(path), signatures=regress)


def test_regress_is_unimplemented_where_the_signature_fits(own_channel, own_models, kept, tmp_path):
    save_regressor(tmp_path / "1")
    reload(own_models, kept, make_config("regressor", tmp_path))
    stub = prediction_service_pb2_grpc.PredictionServiceStub(own_channel)
    assert infer_error(stub, "Regress", make_spec("regressor"))[0] == UNIMPLEMENTED
    code, message = infer_error(stub, "Regress", make_spec("regressor"), EMPTY_INPUTS["no kind"])
    assert code == INVALID and "Input is empty." in message


def test_an_unknown_counter_does_not_stop_a_reload(own_models, kept):
    request = reload_request(kept)
    request.metric_names.append("/tensorflow/serving/no_such_counter")
    response = own_models.HandleReloadConfigRequest(request, timeout=TIMEOUT)
    assert response.status.error_code == error_codes_pb2.OK

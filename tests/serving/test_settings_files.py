"""The files that byol-serve's flags name."""

import pytest

from serving.errors import UserError
from serving.local_server import main, model_config, settings_files
from serving.local_server.batching import Batching
from serving.local_server.status import Code, StatusError


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "file.config"
        path.write_text(text)
        return str(path)

    return write


def test_batching_parameters_are_read_and_left_out_ones_are_tf_servings(write):
    text = """
        max_batch_size { value: 32 } batch_timeout_micros { value: 5000 }
        num_batch_threads { value: 3 }
        allowed_batch_sizes: 8 allowed_batch_sizes: 32 thread_pool_name { value: "mine" }
    """
    assert settings_files.read_batching(write(text)) == Batching(
        max_batch_size=32,
        batch_timeout_micros=5000,
        max_enqueued_batches=10,
        num_batch_threads=3,
        allowed_batch_sizes=(8, 32),
        enable_large_batch_splitting=False,
    )
    assert settings_files.read_batching(write("")).max_batch_size == 1000


def test_metrics_path(write):
    assert settings_files.read_metrics_path(write("")) is None
    assert settings_files.read_metrics_path(write('prometheus_config { path: "/m" }')) is None
    text = "prometheus_config { enable: true }"
    assert settings_files.read_metrics_path(write(text)) == "/monitoring/prometheus/metrics"
    assert (
        settings_files.read_metrics_path(write('prometheus_config { enable: true path: "/m" }'))
        == "/m"
    )


@pytest.mark.parametrize(
    ("read", "text", "sentence"),
    [
        (
            settings_files.read_models,
            "model_config_list { confg {} }",
            "is not a ModelServerConfig in text format",
        ),
        (
            settings_files.read_batching,
            "max_batch_size { value: 0 }",
            "max_batch_size in the batching parameters is 0",
        ),
        (
            settings_files.read_batching,
            "pad_variable_length_inputs: true",
            "has no pad_variable_length_inputs",
        ),
        (settings_files.read_batching, "max_batch_size: 3", "is not a BatchingParameters"),
        (settings_files.read_metrics_path, "prometheus { }", "is not a MonitoringConfig"),
        (settings_files.read_ssl, 'server_key: "x"', "server_key and server_cert are both needed"),
        (
            settings_files.read_ssl,
            'server_key: "x" server_cert: "y" client_verify: true',
            "client_verify needs custom_ca",
        ),
    ],
)
def test_a_wrong_file_is_a_sentence(write, read, text, sentence):
    with pytest.raises(UserError, match=sentence):
        read(write(text))


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="nothing' cannot be read"):
        settings_files.read_models(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ('config { name: "a" base_path: "b" model_platform: "tensorflow" }', "absolute path"),
        ('config { name: "a" base_path: "/b" }', "platform"),
        ('config { name: "a" base_path: "/b" model_platform: "caffe" }', "caffe"),
        ('config { base_path: "/b" model_platform: "tensorflow" }', "no name"),
        ('config { name: "a" base_path: "/b" model_platform: "tensorflow" }' * 2, "multiple times"),
    ],
)
def test_a_wrong_model_is_an_invalid_argument(write, entries, sentence):
    config = settings_files.read_models(write(f"model_config_list {{ {entries} }}"))
    with pytest.raises(StatusError, match=sentence) as caught:
        model_config.checked(config)
    assert caught.value.code == Code.INVALID_ARGUMENT


def test_channel_arguments_are_integers_where_they_read_as_such():
    arguments = main._channel_arguments("grpc.a=7,grpc.b=-1,grpc.c=x=y")
    assert arguments == {"grpc.a": 7, "grpc.b": -1, "grpc.c": "x=y"}
    with pytest.raises(UserError, match="NAME=VALUE"):
        main._channel_arguments("nonsense")

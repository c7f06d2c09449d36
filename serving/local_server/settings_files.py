"""The text-format files that flags name: models, batching, monitoring, TLS.

tensorflow-serving-api ships the message of the first only; the others are declared here, with the
names, numbers and types of TF Serving 2.15's proto files.
"""

from google.protobuf import text_format
from google.protobuf.message import Message
from tensorflow_serving.config import model_server_config_pb2

from serving import messages
from serving.errors import UserError
from serving.local_server.batching import Batching

_CLASSES = messages.define(
    "byol_tf.serving.settings",
    {
        # servables/tensorflow/session_bundle_config.proto
        "BatchingParameters": [
            ("max_batch_size", 1, "google.protobuf.Int64Value"),
            ("batch_timeout_micros", 2, "google.protobuf.Int64Value"),
            ("max_enqueued_batches", 3, "google.protobuf.Int64Value"),
            ("num_batch_threads", 4, "google.protobuf.Int64Value"),
            ("thread_pool_name", 5, "google.protobuf.StringValue"),
            ("allowed_batch_sizes", 6, "repeated int64"),
            ("pad_variable_length_inputs", 7, "bool"),
            ("enable_large_batch_splitting", 8, "google.protobuf.BoolValue"),
            ("max_execution_batch_size", 9, "google.protobuf.Int64Value"),
        ],
        # config/monitoring_config.proto
        "PrometheusConfig": [("enable", 1, "bool"), ("path", 2, "string")],
        "MonitoringConfig": [("prometheus_config", 1, "PrometheusConfig")],
        # config/ssl_config.proto
        "SSLConfig": [
            ("server_key", 1, "string"),
            ("server_cert", 2, "string"),
            ("custom_ca", 3, "string"),
            ("client_verify", 4, "bool"),
        ],
    },
)


def read_models(path: str) -> model_server_config_pb2.ModelServerConfig:
    """A `ModelServerConfig`.

    Raises:
        UserError: the file cannot be read, or is none.
    """
    return _read(path, model_server_config_pb2.ModelServerConfig())


def read_batching(path: str) -> Batching:
    """`BatchingParameters`; what the file leaves out has TF Serving's defaults.

    Raises:
        UserError: the file cannot be read, is none, or asks for what TensorFlow's batch function lacks.
    """
    message = _read(path, _CLASSES["BatchingParameters"]())
    for name in ("pad_variable_length_inputs", "max_execution_batch_size"):
        if any(field.name == name for field, _ in message.ListFields()):
            raise UserError(
                f"{path}: byol-serve has no {name}; remove it, or serve with tensorflow_model_server."
            )
    # thread_pool_name is a name in TF Serving's traces, and nothing here.
    values = {
        field.name: tuple(value) if field.label == field.LABEL_REPEATED else value.value
        for field, value in message.ListFields()
        if field.name != "thread_pool_name"
    }
    return Batching(**values)


def read_metrics_path(path: str) -> str | None:
    """Where a `MonitoringConfig` wants Prometheus's metrics; None where it does not want them.

    Raises:
        UserError: the file cannot be read, or is none.
    """
    prometheus = _read(path, _CLASSES["MonitoringConfig"]()).prometheus_config
    return (prometheus.path or "/monitoring/prometheus/metrics") if prometheus.enable else None


def read_ssl(path: str) -> Message:
    """An `SSLConfig`: server_key, server_cert, custom_ca (PEM contents, not paths) and client_verify.

    Raises:
        UserError: the file cannot be read, is none, or lacks a key, a certificate, or the authority
            that clients are to be verified by.
    """
    config = _read(path, _CLASSES["SSLConfig"]())
    if not (config.server_key and config.server_cert):
        raise UserError(f"{path}: server_key and server_cert are both needed, as PEM contents.")
    if config.client_verify and not config.custom_ca:
        raise UserError(
            f"{path}: client_verify needs custom_ca, the authority of the clients' certificates."
        )
    return config


def _read(path: str, message: Message) -> Message:
    try:
        with open(path, encoding="utf-8") as file:
            return text_format.Parse(file.read(), message)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}).") from error
    except text_format.ParseError as error:
        raise UserError(
            f"{path} is no {message.DESCRIPTOR.name} in text format: {error}."
        ) from error

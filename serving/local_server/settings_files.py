"""The text-format files that flags name: models, batching, monitoring, TLS.

tensorflow-serving-api ships only the first message; the others are declared here, with the names,
numbers and types of TF Serving 2.15's proto files.
"""

import dataclasses
from typing import Any, TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message
from tensorflow_serving.config import model_server_config_pb2

from serving import messages
from serving.errors import UserError
from serving.local_server.batching import Batching

_M = TypeVar("_M", bound=Message)
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


@dataclasses.dataclass(frozen=True)
class SslConfig:
    """Contents of an `SSLConfig`.

    Attributes:
        server_key: PEM content of the server's key; not a path, nor are the others.
        server_cert: PEM content of its certificate.
        custom_ca: PEM content of the authority of the clients' certificates, or "".
        client_verify: Whether clients need a certificate.
    """

    server_key: str
    server_cert: str
    custom_ca: str
    client_verify: bool


def read_models(path: str) -> model_server_config_pb2.ModelServerConfig:
    """Reads a `ModelServerConfig`.

    Raises:
        UserError: The file cannot be read, or is not a ModelServerConfig.
    """
    return _read(path, model_server_config_pb2.ModelServerConfig())


def read_batching(path: str) -> Batching:
    """Reads `BatchingParameters`; fields that are not set get TF Serving's defaults.

    Raises:
        UserError: The file cannot be read, is not BatchingParameters, or asks for something that
            TensorFlow's BatchFunction does not have.
    """
    message = _read(path, _CLASSES["BatchingParameters"]())
    values: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.name in ("pad_variable_length_inputs", "max_execution_batch_size"):
            raise UserError(
                f"{path}: byol-serve has no {field.name}; remove it, or serve with "
                "tensorflow_model_server."
            )
        if field.name != "thread_pool_name":  # It names threads in TF Serving's traces only.
            # A wrapper, or else the only repeated field.
            values[field.name] = value.value if field.message_type else tuple(value)
    return Batching(**values)


def read_metrics_path(path: str) -> str | None:
    """Reads the URL path of Prometheus's metrics from a `MonitoringConfig`; None if they are off.

    Raises:
        UserError: The file cannot be read, or is not a MonitoringConfig.
    """
    prometheus = _read(path, _CLASSES["MonitoringConfig"]()).prometheus_config
    return (prometheus.path or "/monitoring/prometheus/metrics") if prometheus.enable else None


def read_ssl(path: str) -> SslConfig:
    """Reads an `SSLConfig`.

    Raises:
        UserError: The file cannot be read, is not an SSLConfig, or lacks a key, a certificate, or
            the authority to verify clients with.
    """
    message = _read(path, _CLASSES["SSLConfig"]())
    config = SslConfig(
        **{field.name: getattr(message, field.name) for field in dataclasses.fields(SslConfig)}
    )
    if not (config.server_key and config.server_cert):
        raise UserError(f"{path}: server_key and server_cert are both needed, as PEM contents.")
    if config.client_verify and not config.custom_ca:
        raise UserError(
            f"{path}: client_verify needs custom_ca, the authority of the clients' certificates."
        )
    return config


def _read(path: str, message: _M) -> _M:
    try:
        with open(path, encoding="utf-8") as file:
            return text_format.Parse(file.read(), message)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the file '{path}' cannot be read ({error}); correct the path or its permissions."
        ) from error
    except text_format.ParseError as error:
        raise UserError(
            f"{path} is not a {message.DESCRIPTOR.name} in text format: {error}."
        ) from error

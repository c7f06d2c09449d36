"""Fixtures: an exported encoder, small models, and one running `byol-serve` with all of them."""

import grpc
import keras
import pytest
import servable_models
from hypothesis import settings
from serve import Server
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from byol_tf import export
from byol_tf.images.preprocessing import Preprocessing


def pytest_configure(config):
    """Sets the number of cases of the fuzz tests, before test_fuzz.py is imported."""
    settings.register_profile("fuzz", max_examples=config.getoption("--fuzz-cases"))


@pytest.fixture(scope="session")
def encoder_dir(tmp_path_factory):
    """A real export, `byol/1`: images of 32 pixels -> `[N, 128]`.

    The network is small, because each server that loads it also runs the warm-up.
    """
    path = tmp_path_factory.mktemp("encoder") / "byol"
    export.save_encoder(_encoder(3), path / "1", image_size=32)
    return path


@pytest.fixture(scope="session")
def bands_dir(tmp_path_factory):
    """A real export, `bands/1`, for images of five channels and 16 bits."""
    path = tmp_path_factory.mktemp("bands") / "bands"
    preprocessing = Preprocessing(32, mean=[0.5] * 5, std=[0.25] * 5, bit_depth=16)
    export.save_encoder(_encoder(5), path / "1", preprocessing=preprocessing)
    return path


def _encoder(channels):
    keras.utils.set_random_seed(0)
    inputs = keras.Input([32, 32, channels])
    features = keras.layers.Conv2D(32, 5, strides=4, use_bias=False)(inputs)
    features = keras.layers.ReLU()(keras.layers.BatchNormalization()(features))
    features = keras.layers.GlobalAveragePooling2D()(features)
    return keras.Model(inputs, keras.layers.Dense(128)(features))


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory):
    """`half_plus/2` and `half_plus/3` (b = 2 and 3), `echo/1`."""
    path = tmp_path_factory.mktemp("models")
    for b in (2, 3):
        servable_models.save_half_plus(path / "half_plus" / str(b), float(b))
    servable_models.save_echo(path / "echo" / "1")
    return path


@pytest.fixture(scope="session")
def server(encoder_dir, bands_dir, models_dir, tmp_path_factory):
    """`byol-serve` with byol, bands, echo and half_plus (2 and 3; labels stable: 2, canary: 3)."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "models.config").write_text(
        f"""
        model_config_list {{
          config {{ name: "byol" base_path: "{encoder_dir}" model_platform: "tensorflow" }}
          config {{ name: "bands" base_path: "{bands_dir}" model_platform: "tensorflow" }}
          config {{
            name: "half_plus" base_path: "{models_dir}/half_plus" model_platform: "tensorflow"
            model_version_policy {{ all {{}} }}
            version_labels {{ key: "stable" value: 2 }}
            version_labels {{ key: "canary" value: 3 }}
          }}
          config {{ name: "echo" base_path: "{models_dir}/echo" model_platform: "tensorflow" }}
        }}
        """
    )
    (folder / "monitoring.config").write_text("prometheus_config { enable: true }")
    flags = (
        f"--model_config_file={folder}/models.config",
        f"--monitoring_config_file={folder}/monitoring.config",
        "--allow_version_labels_for_unavailable_models",
        "--enable_grpc_reflection",
        "--file_system_poll_wait_seconds=0.2",
        "--rest_api_timeout_in_ms=5000",
    )
    with Server(folder / "log", *flags) as running:
        yield running


@pytest.fixture(scope="session")
def channel(server):
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture(scope="session")
def predictions(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="session")
def models(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel)

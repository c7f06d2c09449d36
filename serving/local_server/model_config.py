"""Checks of a ModelServerConfig, all made before any of it takes effect."""

import os
import re
from collections.abc import Iterable

from tensorflow_serving.config import model_server_config_pb2

from serving.local_server.status import invalid

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def checked(
    config: model_server_config_pb2.ModelServerConfig,
) -> list[model_server_config_pb2.ModelConfig]:
    """Returns the models of a config.

    Raises:
        StatusError: INVALID_ARGUMENT for anything but a model_config_list, a missing or repeated
            name, a missing or relative base_path, a platform other than tensorflow, or control
            characters, which could forge lines of the log and end a path early.
    """
    if config.WhichOneof("config") != "model_config_list":
        raise invalid(
            "ServerModelConfig type not supported by HandleReloadConfigRequest. Only "
            "ModelConfigList is currently supported"
        )
    models = list(config.model_config_list.config)
    _check_names(model.name for model in models)
    for model in models:
        for text in (model.name, model.base_path, *model.version_labels):
            if _CONTROL.search(text):
                raise invalid(f"{text!r} in the config of a model has control characters")
        if not model.base_path.startswith("/"):
            raise invalid(
                f"Expected model {model.name} to have an absolute path; "
                f"got base_path()={model.base_path}"
            )
        if model.model_platform != "tensorflow":
            raise invalid(
                "Illegal setting neither ModelServerConfig::model_type nor "
                f"ModelServerConfig::model_platform is tensorflow for model {model.name}: "
                f"'{model.model_platform}'"
            )
        for number in model.model_version_policy.specific.versions:
            if number < 0:
                raise invalid(
                    f"Model {model.name} asks for version {number}; versions are not negative"
                )
    return models


def _check_names(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if not name:
            raise invalid("A model in the config has no name")
        if name in seen:
            raise invalid(f"Illegal to list model {name} multiple times in config list")
        seen.add(name)


def single(name: str, base_path: str) -> model_server_config_pb2.ModelServerConfig:
    """Returns the config of one model, from `--model_name` and `--model_base_path`."""
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.add(
        name=name, base_path=os.path.abspath(base_path), model_platform="tensorflow"
    )
    return config

"""Executor of ModelPusher."""

import os
import time
from typing import Any

from absl import logging
from google.protobuf import json_format
from tfx import v1 as tfx
from tfx.components.pusher import executor
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import io_utils

from pipelines.components.model_pusher.versions import push, tree_digest, versions


class Executor(executor.Executor):
    """Copies to a hidden folder and renames it; does nothing if the newest version is the model.

    TFX's own executor copies file by file into the version's folder, where a server may find only
    some of the files, and pushes a model again whenever it has been blessed again. The artifact has
    TFX's properties `pushed`, `pushed_destination` and `pushed_version`, `unchanged` (1 if the
    destination had the model already) and `model_id` (of the model, if the destination has it).
    """

    def Do(
        self,
        input_dict: dict[str, list[tfx.dsl.Artifact]],
        output_dict: dict[str, list[tfx.dsl.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Pushes the model if it is blessed and not the newest version already."""
        self._log_startup(input_dict, output_dict, exec_properties)
        pushed = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.PUSHED_MODEL_KEY]
        )
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed)
            return
        destination = tfx.proto.PushDestination()
        json_format.Parse(
            exec_properties[standard_component_specs.PUSH_DESTINATION_KEY], destination
        )
        pushed.set_int_custom_property("model_id", input_dict["model"][0].id)
        base = destination.filesystem.base_directory
        model = self.GetModelPath(input_dict)
        newest = max(versions(base), default=0)
        path = os.path.join(base, str(newest))
        if newest and tree_digest(path) == tree_digest(model):
            logging.info("%s already is this model", path)
            self._MarkNotPushed(pushed)
            pushed.set_int_custom_property("unchanged", 1)
            pushed.set_string_custom_property("pushed_destination", path)
            pushed.set_string_custom_property("pushed_version", str(newest))
            return
        version = str(max(int(time.time()), newest + 1))
        path = push(model, base, version)
        io_utils.copy_dir(model, pushed.uri)
        self._MarkPushed(pushed, pushed_destination=path, pushed_version=version)

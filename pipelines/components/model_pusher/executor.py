"""Executor of ModelPusher."""

import os
import time

from absl import logging
from google.protobuf import json_format
from tfx.components.pusher import executor as stock
from tfx.proto import pusher_pb2
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import io_utils

from pipelines.components.model_pusher.versions import push, tree_digest, versions


class Executor(stock.Executor):
    """Copies under a hidden name and renames; leaves the newest version if it is the same model.

    The stock executor copies file by file into the version's folder, which a server may find half
    full, and pushes a model anew whenever it has been blessed anew. The artifact's properties:
    `pushed`, `pushed_destination` and `pushed_version` as there, and `unchanged` (1 if the
    destination had the model already).
    """

    def Do(self, input_dict, output_dict, exec_properties):
        self._log_startup(input_dict, output_dict, exec_properties)
        artifact = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.PUSHED_MODEL_KEY]
        )
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(artifact)
            return
        destination = pusher_pb2.PushDestination()
        json_format.Parse(
            exec_properties[standard_component_specs.PUSH_DESTINATION_KEY], destination
        )
        base = destination.filesystem.base_directory
        model = self.GetModelPath(input_dict)
        newest = max(versions(base), default=0)
        path = os.path.join(base, str(newest))
        if newest and tree_digest(path) == tree_digest(model):
            logging.info("%s is this model already", path)
            self._MarkNotPushed(artifact)
            artifact.set_int_custom_property("unchanged", 1)
            artifact.set_string_custom_property("pushed_destination", path)
            artifact.set_string_custom_property("pushed_version", str(newest))
            return
        version = str(max(int(time.time()), newest + 1))
        path = push(model, base, version)
        io_utils.copy_dir(model, artifact.uri)
        self._MarkPushed(artifact, pushed_destination=path, pushed_version=version)

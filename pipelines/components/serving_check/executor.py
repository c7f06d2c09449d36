"""Executor of ServingCheck."""

import itertools
import os
from typing import Any

import tensorflow as tf
from absl import logging
from tfx.dsl.components.base import base_executor
from tfx.types import artifact, artifact_utils
from tfx.utils import io_utils, path_utils

from pipelines.components.serving_check import checks


class Executor(base_executor.BaseExecutor):
    """Writes an InfraBlessing; a model that is not blessed is no failure, but Pusher skips it.

    The property `problems` lists what is wrong.
    """

    def Do(
        self,
        input_dict: dict[str, list[artifact.Artifact]],
        output_dict: dict[str, list[artifact.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the blessing."""
        (blessing,) = output_dict["blessing"]
        path = path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["model"]))
        folder = artifact_utils.get_split_uri(input_dict["examples"], "eval")
        records = tf.data.TFRecordDataset(
            sorted(tf.io.gfile.glob(os.path.join(folder, "*"))), "GZIP"
        )
        examples = list(
            itertools.islice(records.as_numpy_iterator(), exec_properties["num_examples"])
        )
        found = checks.problems(path, examples)
        for problem in found:
            logging.warning("cannot be served: %s", problem)
        name = "INFRA_NOT_BLESSED" if found else "INFRA_BLESSED"
        io_utils.write_string_file(os.path.join(blessing.uri, name), "\n".join(found))
        blessing.set_int_custom_property("blessed", int(not found))
        blessing.set_json_value_custom_property("problems", found)

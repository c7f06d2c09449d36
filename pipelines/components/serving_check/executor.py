"""Executor of ServingCheck."""

import itertools
import os

import tensorflow as tf
from absl import logging
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import io_utils, path_utils

from pipelines.components.serving_check import checks


class Executor(base_executor.BaseExecutor):
    """Writes an InfraBlessing; not blessed is a result and no failure: Pusher declines.

    The property `problems` says what was wrong.
    """

    def Do(self, input_dict, output_dict, exec_properties):
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
            logging.warning("not fit to be served: %s", problem)
        name = "INFRA_NOT_BLESSED" if found else "INFRA_BLESSED"
        io_utils.write_string_file(os.path.join(blessing.uri, name), "\n".join(found))
        blessing.set_int_custom_property("blessed", int(not found))
        blessing.set_json_value_custom_property("problems", found)

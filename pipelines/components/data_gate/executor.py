"""Executor of DataGate."""

import json
import os
from typing import Any

import tensorflow as tf
import tensorflow_data_validation as tfdv
from absl import logging
from tensorflow_data_validation.utils import anomalies_util
from tfx.dsl.components.base import base_executor
from tfx.types import artifact, artifact_utils
from tfx.utils import io_utils

from pipelines.components.data_gate.drift import describe, drift, stop

ANOMALIES = "anomalies.json"
_STATISTICS = "FeatureStats.pb"


class Executor(base_executor.BaseExecutor):
    """Collects the anomalies of all splits, adds drift, and raises on severe ones."""

    def Do(
        self,
        input_dict: dict[str, list[artifact.Artifact]],
        output_dict: dict[str, list[artifact.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Copies the statistics to `approved`, or raises a UserError."""
        statistics = artifact_utils.get_single_instance(input_dict["statistics"])
        anomalies = artifact_utils.get_single_instance(input_dict["anomalies"])
        approved = artifact_utils.get_single_instance(output_dict["approved"])
        schema = io_utils.SchemaReader().read(
            io_utils.get_only_uri_in_dir(artifact_utils.get_single_uri(input_dict["schema"]))
        )
        baseline = input_dict.get("baseline")
        found = []
        for split in artifact_utils.decode_split_names(statistics.split_names):
            folder = f"Split-{split}"
            path = os.path.join(statistics.uri, folder, _STATISTICS)
            seen = anomalies_util.load_anomalies_binary(
                os.path.join(anomalies.uri, folder, "SchemaDiff.pb")
            )
            found += describe(seen, split, "the schema")
            current = tfdv.load_stats_binary(path)
            if baseline:
                before = os.path.join(baseline[0].uri, folder, _STATISTICS)
                if tf.io.gfile.exists(before):
                    found += drift(
                        current,
                        tfdv.load_stats_binary(before),
                        schema,
                        split,
                        exec_properties["max_drift"],
                        exec_properties["drift_severity"],
                    )
            io_utils.copy_file(path, os.path.join(approved.uri, folder, _STATISTICS))
        if not baseline:
            logging.info("there are no statistics of an earlier run: drift is not measured")
        stop(found, exec_properties["stop_on"])
        with tf.io.gfile.GFile(os.path.join(approved.uri, ANOMALIES), "w") as file:
            file.write(json.dumps([text for _, text in found]))
        approved.set_string_custom_property("baseline", baseline[0].uri if baseline else "")

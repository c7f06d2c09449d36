"""Executor of RepresentationCheck."""

import dataclasses
import json
import os
from typing import Any

from absl import logging
from tfx.components.evaluator import constants
from tfx.components.evaluator import executor as evaluator_executor
from tfx.dsl.components.base import base_executor
from tfx.types import artifact, artifact_utils
from tfx.utils import io_utils, path_utils

from byol_tf import data, export
from byol_tf.evaluation import rotation
from byol_tf.evaluation.features import Features
from byol_tf.files import write_atomically
from byol_tf.models.collapse import effective_rank, spread
from byol_tf.sources import Source
from pipelines.components.representation_check.rules import judge

MEASURES = "measures.json"
_IMAGES = 2000


class Executor(base_executor.BaseExecutor):
    """Measures candidate and baseline, applies the rules, and writes evaluation and blessing."""

    def Do(
        self,
        input_dict: dict[str, list[artifact.Artifact]],
        output_dict: dict[str, list[artifact.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes `measures.json` and the blessing."""
        (model,) = input_dict["model"]
        (evaluation,), (blessing,) = output_dict["evaluation"], output_dict["blessing"]
        baseline = input_dict.get("baseline_model")
        source = data.open_source(
            os.path.join(artifact_utils.get_split_uri(input_dict["examples"], "eval"), "*")
        )
        candidate = _encode(model, source)
        last_blessed = _encode(baseline[0], source) if baseline else None
        measures = _measure(candidate)
        loss = dataclasses.asdict(rotation.loss(candidate, last_blessed)) if last_blessed else None
        rules = judge(
            measures,
            _measure(last_blessed) if last_blessed else None,
            loss,
            exec_properties["min_spread"],
            exec_properties["max_measure_loss"],
        )
        passed = all(rule["passed"] for rule in rules)
        for rule in rules:
            if rule["passed"]:
                logging.info("passed: %s", rule["explanation"])
            else:
                logging.warning("not blessed: %s", rule["explanation"])
        write_atomically(
            os.path.join(evaluation.uri, MEASURES),
            json.dumps({"measures": measures, "loss": loss, "rules": rules}, indent=2) + "\n",
        )
        # As in Evaluator: Resolver and Pusher read the properties, people read the file.
        name = constants.BLESSED_FILE_NAME if passed else constants.NOT_BLESSED_FILE_NAME
        io_utils.write_string_file(os.path.join(blessing.uri, name), "")
        blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY, int(passed))
        blessing.set_string_custom_property(
            constants.ARTIFACT_PROPERTY_CURRENT_MODEL_URI_KEY, model.uri
        )
        blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY, model.id)
        if baseline:
            blessing.set_string_custom_property(
                constants.ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY, baseline[0].uri
            )
            blessing.set_int_custom_property(
                constants.ARTIFACT_PROPERTY_BASELINE_MODEL_ID_KEY, baseline[0].id
            )


# Kubeflow's entry point replaces the model ids in a blessing by the names that the next run's
# resolver asks for, but only for subclasses of Evaluator's executor, so this registers as one.
evaluator_executor.Executor.register(Executor)


def _encode(model: artifact.Artifact, source: Source) -> Features:
    """Returns the features of the images in four orientations."""
    encoder, preprocessing, _ = export.load_encoder(path_utils.serving_model_path(model.uri))
    return rotation.encode_turns(encoder, source, preprocessing, limit=_IMAGES)


def _measure(turns: Features) -> dict[str, Any]:
    """Returns the measures that the rules read."""
    upright = turns.representations[:, 0]
    accuracy = rotation.accuracy(turns)
    return {
        "representation_std": float(spread(upright)),
        "representation_rank": effective_rank(upright),
        "rotation_accuracy": accuracy.value,
        "rotation_interval": (accuracy.low, accuracy.high),
        "num_images": len(upright),
    }

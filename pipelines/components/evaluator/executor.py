"""Executor of Evaluator."""

from typing import Any

from absl import logging
from tfx.components.evaluator import executor
from tfx.types import artifact, artifact_utils

from pipelines.components.linear_probe.executor import UNMEASURED


class Executor(executor.Executor):
    """TFX's, but it evaluates and blesses nothing if LinearProbe has no classifier."""

    def Do(
        self,
        input_dict: dict[str, list[artifact.Artifact]],
        output_dict: dict[str, list[artifact.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Evaluates the classifier, if there is one."""
        classifier = artifact_utils.get_single_instance(input_dict["model"])
        if classifier.has_custom_property(UNMEASURED):
            logging.info("there is no classifier to evaluate")
            return
        super().Do(input_dict, output_dict, exec_properties)

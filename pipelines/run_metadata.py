"""Reads runs from ML Metadata: states, times, artifacts. Removes the leftovers of killed runs."""

import dataclasses
import json
import os
import shutil
from typing import Any, Literal

import ml_metadata as mlmd
from absl import logging

from pipelines.settings import Settings

_FINISHED = ("COMPLETE", "CACHED")


@dataclasses.dataclass(frozen=True)
class Artifact:
    """An output artifact of a node.

    Attributes:
        id, uri, type: Values of ML Metadata.
        properties: Values of the artifact's declared and custom properties, by name.
    """

    id: int
    uri: str
    type: str
    properties: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Node:
    """The last execution of a node in a run.

    Attributes:
        id: Number of the execution.
        state: COMPLETE, CACHED, FAILED, RUNNING, ...
        seconds: Time from start to end, by ML Metadata's clock.
        outputs: Artifacts by output key; a cached node has those of the run that made them.
    """

    id: int
    state: str
    seconds: float
    outputs: dict[str, list[Artifact]]

    @property
    def finished(self) -> bool:
        """Whether the outputs are complete."""
        return self.state in _FINISHED


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    Attributes:
        kind: `pushed`, `unchanged` (the model is served already), or `rejected`.
        version: Version of the model, if it is served.
        path: Path of the newest served version, which after a rejection is an earlier model; None
            if nothing is served.
        reasons: Reasons why the model was rejected.
    """

    kind: Literal["pushed", "unchanged", "rejected"]
    version: str | None
    path: str | None
    reasons: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The outcome as a sentence for the terminal."""
        if self.kind == "rejected":
            stays = f"The served model stays: {self.path}." if self.path else "Nothing is served."
            return f"The model was NOT pushed: {'; '.join(self.reasons)}. {stays}"
        if self.kind == "unchanged":
            return f"Nothing new to push: {self.path} already is this model."
        return f"The encoder was pushed to {self.path}."


def open_store(settings: Settings) -> mlmd.MetadataStore:
    """Returns the metadata store of the pipeline's root."""
    config = mlmd.proto.ConnectionConfig()
    config.sqlite.filename_uri = settings.metadata_path
    return mlmd.MetadataStore(config)


def last_run(settings: Settings) -> dict[str, Node]:
    """Returns the nodes of the newest run by id; empty if there was no run."""
    store = open_store(settings)
    runs = store.get_contexts_by_type("pipeline_run")
    if not runs:
        return {}
    newest = max(runs, key=lambda context: context.create_time_since_epoch)
    nodes = {}
    for execution in store.get_executions_by_context(newest.id):
        contexts = store.get_contexts_by_execution(execution.id)
        names = {store.get_context_types_by_id([c.type_id])[0].name: c.name for c in contexts}
        node_id = names["node"].removeprefix(f"{settings.name}.")
        state = mlmd.proto.Execution.State.Name(execution.last_known_state)
        elapsed = execution.last_update_time_since_epoch - execution.create_time_since_epoch
        nodes[node_id] = Node(execution.id, state, elapsed / 1000, _outputs(store, execution.id))
    return nodes


def outcome(nodes: dict[str, Node], settings: Settings, served: str | None) -> Outcome:
    """Returns the outcome of a run.

    Args:
        nodes: Finished nodes of the run.
        settings: Settings of the run.
        served: Path of the newest version that is served, if any.
    """
    (pushed,) = nodes["ModelPusher"].outputs["pushed_model"]
    version = pushed.properties.get("pushed_version")
    path = pushed.properties.get("pushed_destination")
    if nodes["ModelPusher"].state == "CACHED" and version:
        return Outcome("unchanged", version, path)
    if pushed.properties.get("pushed"):
        return Outcome("pushed", version, path)
    if pushed.properties.get("unchanged"):
        return Outcome("unchanged", version, path)
    return Outcome("rejected", None, served, tuple(_reasons(nodes, settings)))


def remove_leftovers(settings: Settings) -> None:
    """Deletes the output folders of executions that never finished; nothing refers to them.

    Raises:
        OSError: A folder cannot be deleted.
    """
    if not os.path.exists(settings.metadata_path):
        return
    store = open_store(settings)
    finished = {
        str(execution.id)
        for execution in store.get_executions()
        if mlmd.proto.Execution.State.Name(execution.last_known_state) in _FINISHED
    }
    node_ids = {
        context.name.removeprefix(f"{settings.name}.")
        for context in store.get_contexts_by_type("node")
    }
    for node_id in node_ids:
        folder = os.path.join(settings.pipeline_root, node_id)
        if not os.path.isdir(folder):
            continue
        shutil.rmtree(os.path.join(folder, ".system"), ignore_errors=True)
        for key in os.listdir(folder):
            for execution_id in os.listdir(os.path.join(folder, key)):
                if execution_id not in finished:
                    path = os.path.join(folder, key, execution_id)
                    logging.info("removing the leftovers of a stopped run: %s", path)
                    shutil.rmtree(path)


def _outputs(store: mlmd.MetadataStore, execution_id: int) -> dict[str, list[Artifact]]:
    outputs: dict[str, list[Artifact]] = {}
    for event in store.get_events_by_execution_ids([execution_id]):
        if event.type == mlmd.proto.Event.OUTPUT:
            (artifact,) = store.get_artifacts_by_id([event.artifact_id])
            key = event.path.steps[0].key
            properties = {
                name: getattr(value, value.WhichOneof("value"))
                for name, value in [
                    *artifact.properties.items(),
                    *artifact.custom_properties.items(),
                ]
            }
            outputs.setdefault(key, []).append(
                Artifact(artifact.id, artifact.uri, artifact.type, properties)
            )
    return outputs


def _reasons(nodes: dict[str, Node], settings: Settings) -> list[str]:
    reasons = []
    judge = nodes["Evaluator" if settings.accuracy_decides else "RepresentationCheck"]
    (blessing,) = judge.outputs["blessing"]
    if not blessing.properties.get("blessed"):
        reasons.append(_why_not_blessed(judge, settings))
    for node_id in ("ServingCheck", "InfraValidator"):
        if node_id in nodes:
            (blessing,) = nodes[node_id].outputs["blessing"]
            if not blessing.properties.get("blessed"):
                problems = blessing.properties.get("problems")
                reasons.append(f"{node_id} found that it cannot be served ({problems})")
    return reasons


def _why_not_blessed(node: Node, settings: Settings) -> str:
    """Returns what a gate measured, and the flags that move its bound."""
    (evaluation,) = node.outputs["evaluation"]
    if settings.accuracy_decides:
        sentences = _missed_accuracy(evaluation.uri, settings)
    else:
        with open(os.path.join(evaluation.uri, "measures.json")) as file:
            rules = json.load(file)["rules"]
        sentences = [_missed_rule(rule) for rule in rules if not rule["passed"]]
    return "; ".join(sentences) or "it was not blessed"


def _missed_rule(rule: dict) -> str:
    if rule["baseline"] is not None:
        return f"{rule['explanation']} (--max_measure_loss allows more)"
    if rule["name"] == "representation_std":
        return f"{rule['explanation']} (--min_spread lowers the bound)"
    return rule["explanation"]  # No flag allows a collapse to a line.


def _missed_accuracy(evaluation: str, settings: Settings) -> list[str]:
    import tensorflow_model_analysis as tfma

    sentences = []
    for by_slice in tfma.load_validation_result(evaluation).metric_validations_per_slice:
        for failure in by_slice.failures:
            value = (
                failure.metric_value.double_value.value
                or failure.metric_value.bounded_value.value.value
            )
            if failure.metric_key.is_diff:
                sentences.append(
                    f"accuracy changed by {value:+.3f} from the last blessed model, and may fall "
                    f"by at most {settings.max_accuracy_loss:g} (--max_accuracy_loss allows more)"
                )
            else:
                sentences.append(
                    f"accuracy is {value:.3f}, and must be at least {settings.min_accuracy:.3f} "
                    "(--min_accuracy lowers the bound, --labels=auto only reports accuracy)"
                )
    return sentences

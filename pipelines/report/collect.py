"""Collects the artifacts of a finished run into a `RunSummary`."""

import json
import os
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import tensorflow as tf
import tensorflow_data_validation as tfdv
import tensorflow_model_analysis as tfma
from tensorflow_metadata.proto.v0 import statistics_pb2

from byol_tf import encoders, export
from byol_tf.evaluation.results import environment
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.report.charts import measurements
from byol_tf.report.classes import ClassSlice
from byol_tf.report.gallery import Gallery, reduced
from byol_tf.runs import fingerprint, read_history
from pipelines.report.summary import Gate, RunSummary, SplitStatistics, Timing
from pipelines.run_metadata import Artifact, Node, Outcome
from pipelines.settings import Settings

_GALLERY_IMAGES = 2000  # A ResNet-50 takes a minute for these on two cores.
_BATCH_SIZE = 64
_STATES: dict[str, Literal["ran", "cached"]] = {"COMPLETE": "ran", "CACHED": "cached"}
_MEASURES = {
    "representation_std": "std of the normalised representations of eval images, times √D: 1 even, "
    "0 collapsed",
    "representation_rank": "number of dimensions that the representations of eval images use",
    "rotation_accuracy": "accuracy of a linear probe in telling how an image is turned; chance is "
    "0.25",
}


def collect(
    settings: Settings,
    nodes: Mapping[str, Node],
    outcome: Outcome,
    code: str,
    started: str,
    seconds: float,
) -> RunSummary:
    """Reads what the run's components wrote.

    Args:
        settings: Settings of the run.
        nodes: Nodes of the run, in the order of the pipeline.
        outcome: Outcome of the run.
        code: Digest of the code.
        started: Start time, ISO 8601.
        seconds: Wall time of the run.
    """
    encoder, preprocessing, card = export.load_saved_model(
        os.path.join(_uri(nodes, "Trainer", "model"), "Format-Serving")
    )
    examples = _output(nodes, "ImageExampleGen", "examples")
    corrupt = _corrupt(examples.uri)
    method = encoders.run_method(settings.config)
    return RunSummary(
        pipeline_name=settings.name,
        run_id=started,
        started=started,
        seconds=seconds,
        outcome=outcome.kind,
        labelled=settings.labelled,
        labels=settings.labels,
        accuracy_decides=settings.accuracy_decides,
        version=outcome.version,
        serving_path=outcome.path,
        reasons=outcome.reasons,
        model={
            "architecture": card["architecture"],
            "parameters": card["parameters"],
            "embedding_size": card["embedding_size"],
            "image_size": preprocessing.image_size,
            "input": f"{preprocessing.channels} channel"
            f"{'' if preprocessing.channels == 1 else 's'}, {preprocessing.bit_depth} bit",
            "versions": card["versions"],
        },
        config=card["config"],
        loss_caption=method.loss_caption if method else "",
        history=measurements(read_history(_uri(nodes, "Trainer", "model_run"))),
        accuracy=_accuracy(nodes),
        unmeasured=_unmeasured(nodes),
        slices=_slices(nodes),
        gates=_gates(nodes, settings),
        splits=_splits(_uri(nodes, "StatisticsGen", "statistics")),
        corrupt=corrupt,
        corrupt_total=len(corrupt),
        not_read=_not_read(examples.uri),
        anomalies=_anomalies(_uri(nodes, "DataGate", "approved")),
        baseline_statistics=_output(nodes, "DataGate", "approved").properties.get("baseline")
        or None,
        timings=[
            Timing(name, _STATES.get(node.state, "failed"), node.seconds)
            for name, node in nodes.items()
        ],
        lineage=_lineage(settings, nodes, code, _normalization(settings, preprocessing)),
        gallery=_gallery(examples.uri, encoder.signatures["serving_default"]),
    )


def _output(nodes: Mapping[str, Node], node_id: str, key: str) -> Artifact:
    return nodes[node_id].outputs[key][0]


def _uri(nodes: Mapping[str, Node], node_id: str, key: str) -> str:
    return _output(nodes, node_id, key).uri


def _accuracy(nodes: Mapping[str, Node]) -> list[dict] | None:
    if "LinearProbe" not in nodes:
        return None
    path = os.path.join(_uri(nodes, "LinearProbe", "model"), "evaluation.json")
    with tf.io.gfile.GFile(path) as file:
        return json.load(file)["rows"]


def _unmeasured(nodes: Mapping[str, Node]) -> str:
    """Returns why LinearProbe measured no accuracy; empty if it did, or did not run."""
    if "LinearProbe" not in nodes:
        return ""
    return _output(nodes, "LinearProbe", "model").properties.get("unmeasured", "")


def _slices(nodes: Mapping[str, Node]) -> list[ClassSlice]:
    if "Evaluator" not in nodes or _unmeasured(nodes):
        return []
    slices = []
    for key, metrics in _candidate(nodes).get_metrics_for_all_slices().items():
        name = "overall" if not key else str(key[0][1])
        value, low, high = _bounded(metrics["accuracy"])
        count = int(_bounded(metrics["example_count"])[0])
        slices.append(ClassSlice(name, value, max(low, 0.0), min(high, 1.0), count))
    return slices


def _candidate(nodes: Mapping[str, Node]) -> tfma.EvalResult:
    """Returns TFMA's result for the model of this run, not for the baseline."""
    uri = _uri(nodes, "Evaluator", "evaluation")
    blessing = _output(nodes, "Evaluator", "blessing").properties
    name = "candidate" if blessing.get("baseline_model_id") else None
    return tfma.load_eval_result(uri, model_name=name)


def _bounded(metric: dict) -> tuple[float, float, float]:
    """Returns value and bounds of a TFMA metric, with or without an interval."""
    if "boundedValue" in metric:
        bounded = metric["boundedValue"]
        value = bounded.get("value", 0.0)
        return value, bounded.get("lowerBound", value), bounded.get("upperBound", value)
    value = metric.get("doubleValue", 0.0)
    return value, value, value


def _gates(nodes: Mapping[str, Node], settings: Settings) -> list[Gate]:
    if "RepresentationCheck" in nodes:
        path = os.path.join(_uri(nodes, "RepresentationCheck", "evaluation"), "measures.json")
        with tf.io.gfile.GFile(path) as file:
            rules = json.load(file)["rules"]
        gates = [
            Gate(
                rule["name"].replace("_", " "),
                rule["value"],
                rule["bound"],
                rule["baseline"],
                rule["passed"],
                _meaning(rule),
            )
            for rule in rules
        ]
    else:
        metrics = _candidate(nodes).get_metrics_for_slice(slice_name=())
        value = _bounded(metrics["accuracy"])[0]
        gates = [
            Gate(
                "accuracy",
                value,
                settings.min_accuracy,
                None,
                value >= settings.min_accuracy,
                "accuracy of the linear probe on the eval split",
                fraction=True,
            )
        ]
        if "accuracy_diff" in metrics:
            change = _bounded(metrics["accuracy_diff"])[0]
            gates.append(
                Gate(
                    "change of accuracy",
                    change,
                    -settings.max_accuracy_loss,
                    value - change,
                    change >= -settings.max_accuracy_loss,
                    "change from the last blessed model, on the same images",
                    fraction=True,
                )
            )
    check = "ServingCheck" if "ServingCheck" in nodes else "InfraValidator"
    blessed = int(bool(_output(nodes, check, "blessing").properties.get("blessed")))
    gates.append(
        Gate(
            "can be served",
            blessed,
            1,
            None,
            bool(blessed),
            "loads as in a server, and all signatures answer recorded and real requests alike",
        )
    )
    return gates


def _meaning(rule: dict) -> str:
    """Returns what a rule's measure means and, in a comparison, how sure its result is."""
    meaning = _MEASURES[rule["name"]]
    return meaning if rule["baseline"] is None else f"{meaning}; {rule['explanation']}"


def _splits(uri: str) -> list[SplitStatistics]:
    splits = []
    for folder in sorted(tf.io.gfile.glob(os.path.join(uri, "Split-*"))):
        (dataset,) = tfdv.load_stats_binary(os.path.join(folder, "FeatureStats.pb")).datasets
        features = {feature.path.step[0]: feature for feature in dataset.features}
        splits.append(
            SplitStatistics(
                folder.rpartition("Split-")[2],
                int(dataset.num_examples),
                formats=_counts(features["image/format"]),
                pixels=_counts(features["image/pixels"]),
                labels=_counts(features["image/label_text"]),
                height=_range(features["image/height"]),
                width=_range(features["image/width"]),
            )
        )
    return splits


def _counts(feature: statistics_pb2.FeatureNameStatistics) -> dict[str, int]:
    buckets = feature.string_stats.rank_histogram.buckets
    return {bucket.label: int(bucket.sample_count) for bucket in buckets if bucket.label}


def _range(feature: statistics_pb2.FeatureNameStatistics) -> tuple[float, float, float]:
    numbers = feature.num_stats
    return numbers.min, numbers.median, numbers.max


def _corrupt(uri: str) -> list[tuple[str, str]]:
    with tf.io.gfile.GFile(os.path.join(uri, "quarantine.tsv")) as file:
        lines = file.read().splitlines()
    pairs = (line.partition("\t") for line in lines)
    return [(key, reason) for key, _, reason in pairs]


def _not_read(uri: str) -> list[str]:
    with tf.io.gfile.GFile(os.path.join(uri, "not_read.txt")) as file:
        return file.read().splitlines()


def _anomalies(uri: str) -> list[str]:
    with tf.io.gfile.GFile(os.path.join(uri, "anomalies.json")) as file:
        return json.load(file)


def _normalization(settings: Settings, preprocessing: Preprocessing) -> str:
    """Returns mean and std of each channel, and where they come from."""
    source = "given by the config" if settings.config["normalize"]["mean"] else "measured on train"
    mean, std = (
        ", ".join(f"{value:.4g}" for value in values)
        for values in (preprocessing.mean, preprocessing.std)
    )
    return f"mean {mean}; std {std}; of values in [0, 1], {source}"


def _lineage(
    settings: Settings, nodes: Mapping[str, Node], code: str, normalization: str
) -> list[tuple[str, str]]:
    about = environment()
    hardware = about["hardware"]
    rows = [
        ("data", settings.data_dir),
        ("listing of the data", settings.listing_digest),
        ("config", fingerprint(dict(settings.config))),
        ("normalisation", normalization),
        ("started from", _started_from(nodes)),
        ("code", code),
        ("commit", about["commit"] or "unknown"),
        ("hardware", ", ".join(hardware["gpus"]) or f"{hardware['cpus']} × {hardware['cpu']}"),
        ("versions", ", ".join(f"{k} {v}" for k, v in about["versions"].items())),
    ]
    for node_id, node in nodes.items():
        for key, artifacts in node.outputs.items():
            for artifact in artifacts:
                rows.append((f"{node_id} {key}", f"artifact {artifact.id}, {artifact.uri}"))
    return rows


def _started_from(nodes: Mapping[str, Node]) -> str:
    """Returns what the training's first weights were, from the config of its run."""
    path = os.path.join(_uri(nodes, "Trainer", "model_run"), "config.json")
    with tf.io.gfile.GFile(path) as file:
        start = json.load(file).get("started_from")
    if not start:
        return "random weights"
    return f"{start['from']}, {start['source']}, fingerprint {start['fingerprint']}"


def _gallery(examples: str, embed: Callable[..., dict[str, tf.Tensor]]) -> Gallery:
    """Embeds images of both splits, those of the eval split first, by the export's signature."""
    files = [
        file
        for split in ("eval", "train")
        for file in sorted(tf.io.gfile.glob(os.path.join(examples, f"Split-{split}", "*.gz")))
    ]
    records = tf.data.TFRecordDataset(files, "GZIP").take(_GALLERY_IMAGES)
    embeddings, thumbnails, keys, labels = [], [], [], []
    texts: dict[int, str] = {}
    for batch in records.batch(_BATCH_SIZE).as_numpy_iterator():
        images = []
        for record in batch:
            feature = tf.train.Example.FromString(record).features.feature
            images.append(feature["image/encoded"].bytes_list.value[0])
            label = feature["image/label"].int64_list.value[0]
            keys.append(os.fsdecode(feature["image/key"].bytes_list.value[0]))
            labels.append(label)
            texts[label] = os.fsdecode(feature["image/label_text"].bytes_list.value[0])
        embeddings.append(embed(image_bytes=tf.constant(images))["embedding"].numpy())
        # Small ones: thousands of photos would not fit into memory.
        thumbnails += [reduced(image) or b"" for image in images]
    labelled = min(labels) >= 0
    return Gallery(
        np.concatenate(embeddings),
        thumbnails,
        keys,
        np.array(labels) if labelled else None,
        [texts.get(label, str(label)) for label in range(max(labels) + 1)] if labelled else None,
    )

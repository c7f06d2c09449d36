"""Collects a run's files and embeds images with its encoder, for the page of the run."""

import dataclasses
import json
import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from byol_tf import data, encoders, runs
from byol_tf.errors import UserError
from byol_tf.evaluation import features, knn
from byol_tf.evaluation.accuracy import wilson_interval
from byol_tf.evaluation.evaluated_encoder import EvaluatedEncoder
from byol_tf.evaluation.results import environment
from byol_tf.report import gallery
from byol_tf.report.charts import measurements
from byol_tf.report.classes import ClassSlice
from byol_tf.report.run_page import Images, Run
from byol_tf.runs import read_history
from byol_tf.sources import Source

# Larger sets are subsampled evenly, so that a small encoder takes minutes on two cores.
_TRAIN_IMAGES, _TEST_IMAGES = 5_000, 10_000
_BATCH_SIZE = 256


def collect(run_dir: str, train_dir: str | None = None, test_dir: str | None = None) -> Run:
    """Reads what the run wrote and embeds some images with its encoder, if images are known.

    Args:
        run_dir: Folder of a run of byol-pretrain.
        train_dir, test_dir: Images, as `data.open_source` takes them; by default those that the
            run's evaluation.json names. If neither is given and images or a checkpoint are not
            available, the page goes without images.

    Raises:
        UserError: There is no run, an evaluation.json is malformed, or images were given and one
            set is missing or does not open, or there is no checkpoint.
    """
    config = runs.load_config(run_dir)
    method = encoders.run_method(config)
    run = Run(
        path=run_dir,
        config=config.to_dict(),
        method=encoders.method_name(config),
        method_fields=tuple(method.CONFIG_FIELDS) if method else (),
        loss_caption=method.loss_caption if method else "",
        history=measurements(read_history(run_dir)),
        evaluations=dict(_evaluations(run_dir)),
        made=environment(),
    )
    try:
        train, test = _open_sources(run, train_dir, test_dir)
        checkpoint = runs.latest_checkpoint(run_dir)
        images = embed(encoders.from_run(run_dir, checkpoint), train, test)
    except UserError as error:
        if train_dir or test_dir:
            raise
        logging.warning("the page has no images: %s", error)
        return dataclasses.replace(run, no_images=str(error))
    return dataclasses.replace(run, checkpoint=checkpoint, images=images)


def embed(encoder: EvaluatedEncoder, train: Source, test: Source) -> Images:
    """Embeds images for the neighbours, the map and the accuracy by class.

    Raises:
        UserError: What `features.extract` raises.
    """
    unlabelled = _why_unlabelled(train, test)
    train_features = _extract(encoder, train, _TRAIN_IMAGES)
    test_features = _extract(encoder, test, _TEST_IMAGES)
    class_names = None if unlabelled else test.class_names
    train_gallery = _gallery(train_features, class_names)
    test_gallery = _gallery(test_features, class_names)
    found = gallery.neighbours(test_gallery, train_gallery)
    images = Images(
        train=_with_files(
            train_gallery, train, _TRAIN_IMAGES, {index for _, near in found for index, _ in near}
        ),
        test=_with_files(
            test_gallery,
            test,
            _TEST_IMAGES,
            {query for query, _ in found} | set(gallery.mapped(len(test_gallery.keys)).tolist()),
        ),
        num_train=_count(train, _TRAIN_IMAGES, train_features),
        num_test=_count(test, _TEST_IMAGES, test_features),
        unlabelled=unlabelled,
    )
    if class_names is None:
        return images
    overall = knn.knn_accuracy(train_features, test_features)
    return dataclasses.replace(
        images,
        overall=_slice("", overall),
        classes=accuracy_by_class(train_features, test_features, class_names),
        k=overall.k,
    )


def accuracy_by_class(
    train: features.Features, test: features.Features, class_names: Sequence[str]
) -> list[ClassSlice]:
    """Returns the kNN top-1 accuracy (`knn.knn_accuracy`) on each class with test examples."""
    return [
        _slice(class_names[label], knn.knn_accuracy(train, test.select(test.labels == label)))
        for label in np.unique(test.labels)
    ]


def _slice(name: str, result: knn.KNNResult) -> ClassSlice:
    interval = wilson_interval(round(result.top_1 * result.num_test), result.num_test)
    return ClassSlice(name, result.top_1, *interval, result.num_test)


def _evaluations(run_dir: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (file name, record) of evaluation.json, then of other protocols by name."""
    paths = [
        path
        for name in ("evaluation.json", "evaluation-*.json")
        for path in sorted(tf.io.gfile.glob(os.path.join(run_dir, name)))
    ]
    for path in paths:
        with tf.io.gfile.GFile(path) as file:
            text = file.read()
        try:
            record = json.loads(text)
            _check_record(record)
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"'{path}' is not a record of byol-evaluate; run it again, or move the file."
            ) from error
        yield os.path.basename(path), record


def _check_record(record: dict[str, Any]) -> None:
    """Raises `LookupError` or `TypeError` unless `record` has the entries that a page reads."""
    texts = [record["command"], record["model"], record["date"]]
    texts += [record["train"]["source"], record["test"]["source"]]
    texts += [row["encoder"] for row in record["rows"]]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("not text")


def _open_sources(run: Run, train_dir: str | None, test_dir: str | None) -> tuple[Source, Source]:
    record = run.evaluations.get("evaluation.json")
    if record:
        train_dir = train_dir or record["train"]["source"]
        test_dir = test_dir or record["test"]["source"]
    if not train_dir or not test_dir:
        raise UserError(
            f"'{run.path}' has no evaluation.json that names images; give both --train_dir and "
            "--test_dir."
        )
    return data.open_source(train_dir), data.open_source(test_dir)


def _why_unlabelled(train: Source, test: Source) -> str:
    """Returns a sentence on why classes cannot be compared, or an empty string if they can."""
    if train.class_names is None or test.class_names is None:
        return "Without labels there are no classes to compare."
    if train.class_names != test.class_names:
        return "Training and test images do not have the same classes, so classes are not compared."
    return ""


def _extract(encoder: EvaluatedEncoder, source: Source, limit: int) -> features.Features:
    images = data.evaluation_dataset(source, encoder.preprocessing, _BATCH_SIZE, limit=limit)
    return features.extract(encoder.encode, images)


def _count(source: Source, limit: int, taken: features.Features) -> int:
    """Returns the number of images, without corrupt ones if the whole source was read."""
    return len(taken.keys) if source.num_examples <= limit else source.num_examples


def _gallery(of: features.Features, class_names: Sequence[str] | None) -> gallery.Gallery:
    keys = [os.fsdecode(key) for key in of.keys]
    labels = None if class_names is None else of.labels
    return gallery.Gallery(of.representations, {}, keys, labels, class_names)


def _with_files(
    images: gallery.Gallery, source: Source, limit: int, positions: Collection[int]
) -> gallery.Gallery:
    """Returns the gallery with the files of the images at `positions`, found by their keys."""
    wanted = {os.fsencode(images.keys[position]) for position in positions}
    chunks = source.in_order(_BATCH_SIZE, limit)
    # Nothing is decoded: corrupt images are not among the keys wanted.
    examples = chunks.unbatch().map(
        lambda _, *example: source.load(*example), num_parallel_calls=tf.data.AUTOTUNE
    )
    examples = examples.ignore_errors()
    files = {key: file for file, _, key in examples.as_numpy_iterator() if key in wanted}
    found = {position: files[os.fsencode(images.keys[position])] for position in positions}
    return dataclasses.replace(images, images=found)

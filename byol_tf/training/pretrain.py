"""Pretraining of a config on a set of images; the same call again resumes.

The run folder holds `config.json` (resolved, with the number of examples and the classes),
`checkpoints/`, `logs/` (TensorBoard) and `history.csv`.
"""

import contextlib
import os
from collections.abc import Callable, Iterator

import keras
import ml_collections
import tensorflow as tf
from absl import logging

from byol_tf import checkpoints, data, files, runs, weights
from byol_tf.build import (
    METHODS,
    build_augmentation,
    build_encoder,
    build_model,
    find_method,
    preprocessing_from_config,
)
from byol_tf.errors import UserError
from byol_tf.models import schedules
from byol_tf.models.precision import resolve_precision
from byol_tf.models.two_view_model import TwoViewModel
from byol_tf.runs import load_config, restore_encoder
from byol_tf.sources import Source
from byol_tf.training import channel_statistics, cluster
from byol_tf.training import strategy as strategies
from byol_tf.training.callbacks import (
    checkpoint,
    collapse,
    history,
    online_eval,
    progress,
    trackers,
)

# Scripts use these names as `byol_tf.pretrain.…`.
__all__ = [
    "METHODS",
    "build_augmentation",
    "build_encoder",
    "build_model",
    "find_method",
    "load_config",
    "preprocessing_from_config",
    "pretrain",
    "restore_encoder",
]


def pretrain(
    config: ml_collections.ConfigDict, data_dir: str, run_dir: str, strategy: str = "default"
) -> TwoViewModel:
    """Trains the config's method, or continues the run in `run_dir` where it stopped.

    Args:
        config: Config with the fields of `byol_tf.configs.defaults`.
        data_dir: Images, named as for `data.open_source`: a folder, TFRecords or a TFDS name.
        run_dir: Folder of the run; a folder with a run of another config is refused.
        strategy: Name of a strategy, one of `choices.STRATEGIES`.

    Returns:
        The trained model.

    Raises:
        UserError: A value, folder or image set is bad, another process trains in `run_dir`, all its
            checkpoints are damaged, the disk is full, another worker is lost, or the loss is no
            longer finite.
    """
    distribution = strategies.build_strategy(strategy)
    config = ml_collections.ConfigDict(config.to_dict())
    config.precision = resolve_precision(config.precision)
    _check(config, distribution)
    source = data.open_source(data_dir)
    # A checkpoint has all weights: the file that the run started from need not be there any more.
    resumes = bool(checkpoints.saved(os.path.join(run_dir, "checkpoints")))
    start = None if resumes else weights.read_start(config)
    _resolve_normalization(config, source, run_dir, resumes)
    if not strategies.is_chief(distribution):
        with _full_disk_named(run_dir), cluster.lost_workers_named(run_dir):
            return _train(config, source, run_dir, distribution, start, chief=False)
    with (
        runs.locked(run_dir),
        _full_disk_named(run_dir),
        cluster.lost_workers_named(run_dir),
    ):
        described = config.to_dict() | {
            "examples": source.num_examples,
            "classes": list(source.class_names or []),
        }
        if config.encoder.get("weights"):
            described["started_from"] = (
                start.describe()
                if start
                else runs.load_config(run_dir).to_dict().get("started_from")
            )
        runs.claim_run_dir(run_dir, described)
        return _train(config, source, run_dir, distribution, start, chief=True)


def _resolve_normalization(
    config: ml_collections.ConfigDict, source: Source, run_dir: str, resumes: bool
) -> None:
    """Sets a normalisation that is to be measured: to that of the run, if it has begun."""
    if resumes and not len(config.normalize.mean):
        begun = runs.load_config(run_dir)
        if len(begun.normalize.mean) == config.channels:
            config.normalize.mean = tuple(begun.normalize.mean)
            config.normalize.std = tuple(begun.normalize.std)
    channel_statistics.resolve(config, source)


def _check(config: ml_collections.ConfigDict, distribution: tf.distribute.Strategy) -> None:
    if config.epochs is None or config.epochs < 1:
        raise UserError(f"epochs is {config.epochs}; give at least 1.")
    data.check_config(config)
    find_method(config.method)
    trackers.check(config.logger)
    strategies.check_batch_size(config.batch_size, distribution)


@contextlib.contextmanager
def _full_disk_named(run_dir: str) -> Iterator[None]:
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        if not files.is_disk_full(error):
            raise
        raise UserError(
            f"there is no space left on the disk of '{run_dir}'; free some and run the same "
            "command again: it continues from the last checkpoint."
        ) from error


def _train(
    config: ml_collections.ConfigDict,
    source: Source,
    run_dir: str,
    distribution: tf.distribute.Strategy,
    start: weights.EncoderWeights | None,
    chief: bool,
) -> TwoViewModel:
    steps_per_epoch = schedules.steps_per_epoch(source.num_examples, config.batch_size)
    assign = start.assign_to if start else None
    model = build_model(config, steps_per_epoch, source.class_names, distribution, assign)
    saver = checkpoint.TrainingCheckpoint(
        os.path.join(run_dir, "checkpoints"), model, config.checkpoint_every_steps, chief
    )
    start_step = saver.restore()
    total_steps = model.total_steps
    logging.info(
        "%s: %d images, %d steps (%d per epoch), %d done; %s on %d replica(s)",
        run_dir,
        source.num_examples,
        total_steps,
        steps_per_epoch,
        start_step,
        config.precision,
        distribution.num_replicas_in_sync,
    )
    if start_step >= total_steps:
        return model

    def views(step):
        return distribution.distribute_datasets_from_function(
            lambda context: data.two_view_dataset(
                source, config, start_step=step, input_context=context
            )
        )

    callbacks = _monitors(config, source)
    bar = None
    if chief:
        bar = progress.ProgressBar(total_steps, config.batch_size, start_step)
        callbacks += [history.History(run_dir, start_step), bar]
    callbacks.append(saver)  # Last, so that every step a checkpoint counts has been logged.
    tracker = trackers.tracked(config.logger if chief else "", run_dir, config)
    try:
        with tracker as tracking, data.clean_errors(source):
            callbacks[-1:-1] = tracking  # After the monitors, whose values it logs too.
            _fit(model, views, steps_per_epoch, start_step, config.epochs, callbacks)
    finally:
        if bar is not None:
            bar.close()
    return model


def _monitors(config: ml_collections.ConfigDict, source: Source) -> list[keras.callbacks.Callback]:
    """Returns monitors of collapse and, with labels, kNN, on evenly spaced training images."""
    preprocessing = preprocessing_from_config(config)
    batch_size = min(config.batch_size, 256)

    def examples(limit):
        return data.evaluation_dataset(source, preprocessing, batch_size, limit=limit)

    first = next(iter(examples(batch_size)), None)
    if first is None:
        raise source.corrupt.error or source.corrupt.none_left()
    images, _, _ = first
    monitors = [collapse.CollapseMonitor(images)]
    if config.knn_every_epochs and source.class_names:
        monitors.append(
            online_eval.OnlineKNN(examples(config.knn_examples), config.knn_every_epochs)
        )
    return monitors


def _fit(
    model: TwoViewModel,
    views: Callable[[int], tf.distribute.DistributedDataset],
    steps_per_epoch: int,
    start_step: int,
    epochs: int,
    callbacks: list[keras.callbacks.Callback],
) -> None:
    """Trains from `start_step` to the end, first the rest of an interrupted epoch.

    The means of that epoch go on from the restored sums, so they cover the whole epoch. `views`
    returns the dataset from a step on.
    """
    epoch, done = divmod(start_step, steps_per_epoch)
    if done:
        sums = [variable for metric in model.metrics for variable in metric.variables]
        restored = [variable.numpy() for variable in sums]

        def put_back(epoch: int, logs: dict) -> None:  # Keras has just reset them.
            for variable, value in zip(sums, restored, strict=True):
                variable.assign(value)

        model.fit(
            views(start_step),
            initial_epoch=epoch,
            epochs=epoch + 1,
            steps_per_epoch=steps_per_epoch - done,
            callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=put_back), *callbacks],
            verbose=0,
        )
        epoch += 1
    if epoch < epochs:
        model.fit(
            views(epoch * steps_per_epoch),
            initial_epoch=epoch,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            callbacks=callbacks,
            verbose=0,
        )

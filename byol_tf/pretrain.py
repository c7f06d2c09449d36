"""A config and a folder of images in, a trained run folder out; the same call again resumes.

The run folder: `config.json` (resolved, with what the data were), `checkpoints/`, `logs/` (TensorBoard), `history.csv`.
"""

import importlib
import json
import os

import keras
import ml_collections
import tensorflow as tf
from absl import logging

from byol_tf import augmentations, data, networks, optimizers, schedules, strategy as strategies
from byol_tf.byol import BYOL
from byol_tf.callbacks import checkpoint, collapse, history, online_eval, progress
from byol_tf.errors import UserError
from byol_tf.precision import policy_scope, resolve_precision
from byol_tf.preprocessing import Preprocessing
from byol_tf.simclr import SimCLR
from byol_tf.two_view_model import TwoViewModel

METHODS = {"byol": BYOL, "simclr": SimCLR}


def pretrain(
    config: ml_collections.ConfigDict, data_dir: str, run_dir: str, strategy: str = "default"
) -> TwoViewModel:
    """Trains the config's method, or continues the run in `run_dir` where it stopped.

    Args:
        config: of `byol_tf.configs`.
        data_dir: what `data.open_source` takes: a folder, TFRecords or a TFDS name.
        run_dir: the run's folder; one that holds a run with another config is refused.
        strategy: one of `strategy.STRATEGIES`.

    Returns:
        The trained model.

    Raises:
        UserError: a bad value, folder or image set, or a loss that is no longer finite.
    """
    distribution = strategies.build_strategy(strategy)
    config = ml_collections.ConfigDict(config.to_dict())
    config.precision = resolve_precision(config.precision)
    _check(config, distribution)
    source = data.open_source(data_dir)
    chief = strategies.is_chief(distribution)
    if chief:
        described = config.to_dict() | {
            "examples": source.num_examples,
            "classes": list(source.class_names or []),
        }
        checkpoint.claim_run_dir(run_dir, described)

    steps_per_epoch = max(source.num_examples // config.batch_size, 1)
    model = build_model(config, steps_per_epoch, source.class_names, distribution)
    saver = checkpoint.TrainingCheckpoint(
        os.path.join(run_dir, "checkpoints"), model, config.checkpoint_every_steps, chief
    )
    start_step = saver.restore()
    total_steps = model.total_steps
    logging.info(
        "%s: %d images, %d steps (%d an epoch), %d done; %s on %d replica(s)",
        run_dir, source.num_examples, total_steps, steps_per_epoch, start_step, config.precision,
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
    callbacks.append(saver)  # Last: what a checkpoint says is done has been logged.
    try:
        with data.clean_errors(source):
            _fit(model, views, steps_per_epoch, start_step, config.epochs, callbacks)
    finally:
        if bar is not None:
            bar.close()
    return model


def find_method(name: str) -> type[TwoViewModel]:
    """The class of a method: of `METHODS`, or by the dotted name of a `TwoViewModel` of your own.

    Raises:
        UserError: there is none of that name.
    """
    if name in METHODS:
        return METHODS[name]
    module, _, attribute = name.rpartition(".")
    try:
        method = getattr(importlib.import_module(module), attribute)
        if issubclass(method, TwoViewModel):
            return method
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        logging.debug("method '%s': %s", name, error)
    raise UserError(
        f"the method '{name}' is unknown; give one of {', '.join(METHODS)}, or module.Class of a TwoViewModel."
    )


def build_model(config, steps_per_epoch: int, class_names, distribution) -> TwoViewModel:
    """The compiled model of `config`, its weights drawn from `config.seed`, under the strategy's scope."""
    total_steps = steps_per_epoch * config.epochs
    place = config.augment.place
    augmentation = build_augmentation(config) if place == "device" else None
    keras.utils.set_random_seed(config.seed)
    with distribution.scope(), policy_scope(config.precision):
        method = find_method(config.method)
        model = method(
            build_encoder(config),
            total_steps=total_steps,
            num_classes=len(class_names) if class_names and config.online_classifier else None,
            augmentation=augmentation,
            micro_batches=config.micro_batches,
            seed=config.seed,
            **{field: config[field] for field in method.CONFIG_FIELDS},
        )
        learning_rate = schedules.WarmupCosine(
            schedules.scale_lr(config.optimizer.base_lr, config.batch_size),
            min(round(config.optimizer.warmup_epochs * steps_per_epoch), total_steps),
            total_steps,
        )
        model.compile(optimizers.build_optimizer(config, learning_rate))
    return model


def build_encoder(config) -> keras.Model:
    """The encoder of `config.encoder`, freshly initialised."""
    return networks.resnet(image_size=config.image_size, **config.encoder)


def build_augmentation(config) -> augmentations.TwoViews:
    """The views of `config.augment`, normalised by `config.normalize`."""
    return augmentations.TwoViews(
        config.augment.view_1.to_dict(),
        config.augment.view_2.to_dict(),
        config.normalize.mean,
        config.normalize.std,
    )


def preprocessing_from_config(config) -> Preprocessing:
    """What evaluation and serving do to an image before the encoder trained with `config`."""
    return Preprocessing(
        config.image_size, config.eval_crop_fraction, config.normalize.mean, config.normalize.std
    )


def load_config(run_dir: str) -> ml_collections.ConfigDict:
    """The resolved config of a run, with `examples` and `classes` of its data.

    Raises:
        UserError: `run_dir` holds no run.
    """
    path = os.path.join(run_dir, "config.json")
    if not tf.io.gfile.exists(path):
        raise UserError(f"'{run_dir}' holds no run (no config.json); give the --run_dir of byol-pretrain.")
    with tf.io.gfile.GFile(path) as file:
        return ml_collections.ConfigDict(json.load(file))


def restore_encoder(run_dir: str, path: str | None = None) -> keras.Model:
    """The online encoder of a run, computing in float32.

    Args:
        run_dir: of `pretrain`.
        path: of a checkpoint, without its .index ending; None takes the run's latest.

    Raises:
        UserError: no run, no checkpoint, or one of another architecture.
    """
    config = load_config(run_dir)
    path = path or tf.train.latest_checkpoint(os.path.join(run_dir, "checkpoints"))
    if path is None:
        raise UserError(f"'{run_dir}' has no checkpoint yet; run byol-pretrain until the first is saved.")
    with policy_scope("float32"):
        encoder = build_encoder(config)
    checkpoint.restore(tf.train.Checkpoint(model=tf.train.Checkpoint(encoder=encoder)), path)
    return encoder


def _check(config, distribution) -> None:
    if config.epochs is None or config.epochs < 1:
        raise UserError(f"config.epochs is {config.epochs}; give at least 1.")
    data.check_config(config)
    find_method(config.method)
    strategies.check_batch_size(config.batch_size, distribution)


def _monitors(config, source) -> list[keras.callbacks.Callback]:
    """Collapse and, with labels, kNN, on images evenly spaced over the training set."""
    preprocessing = preprocessing_from_config(config)
    batch_size = min(config.batch_size, 256)

    def examples(limit):
        return data.evaluation_dataset(source, preprocessing, batch_size, limit=limit)

    images, _, _ = next(iter(examples(batch_size)))
    monitors = [collapse.CollapseMonitor(images)]
    if config.knn_every_epochs and source.class_names:
        monitors.append(online_eval.OnlineKNN(examples(config.knn_examples), config.knn_every_epochs))
    return monitors


def _fit(model, views, steps_per_epoch, start_step, epochs, callbacks) -> None:
    """`fit` from `start_step` to the end, first the rest of an epoch that was interrupted.

    `views` gives the dataset from a step on.
    """
    epoch, done = divmod(start_step, steps_per_epoch)
    if done:
        model.fit(
            views(start_step), initial_epoch=epoch, epochs=epoch + 1, steps_per_epoch=steps_per_epoch - done,
            callbacks=callbacks, verbose=0,
        )
        epoch += 1
    if epoch < epochs:
        model.fit(
            views(epoch * steps_per_epoch), initial_epoch=epoch, epochs=epochs, steps_per_epoch=steps_per_epoch,
            callbacks=callbacks, verbose=0,
        )

"""Encoded images -> tf.data batches: two views for training, one preprocessed image for evaluation.

Training input is a pure function of (seed, step): the number of the step is all it takes to resume. Each
file is read once for its two views. Randomness, where s is the config's seed:
  the order of epoch e is drawn from (s, e);
  crop i of the example at position p from (s, i, p), whatever the batch size and number of workers;
  the rest of a view, on the host, from (s, number of the per-replica batch).
"""

import contextlib
from collections.abc import Iterator

import ml_collections
import numpy as np
import tensorflow as tf
from absl import logging

from byol_tf import augmentations, corrupt
from byol_tf.errors import UserError
from byol_tf.preprocessing import Preprocessing, decode_image
from byol_tf.sources import Shard, Source, open_source

# A chunk of decoded crops has enough examples to make its overhead small, and one fits per core.
_CHUNK_BYTES = 16 << 20
_CHUNK_EXAMPLES = (16, 64)
_CROP_1, _CROP_2, _AUGMENT, _FLIP = range(4)  # What a seed is for.


def two_view_dataset(
    source: str | Source,
    config: ml_collections.ConfigDict,
    *,
    start_step: int = 0,
    input_context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Endless batches of two views of each image.

    A global batch is `config.batch_size` consecutive positions of the endless sequence of shuffled
    epochs, and may span two. With an `input_context` (`strategy.distribute_datasets_from_function`) the
    dataset yields per-replica batches, b = batch_size / replicas: the worker's rows of every global
    batch. A corrupt image gives its place to another of its batch, so that positions stay exact.

    Args:
        source: an opened source, or what `open_source` takes.
        config: its seed, batch_size, image_size, augment, normalize and data are used.
        start_step: number of the first global batch, from 0.
        input_context: of the worker, under a strategy.

    Returns:
        Dataset of `((view_1, view_2), labels)`, or `((view_1, view_2),)` of an unlabelled source. Views:
        float32 `[b, S, S, 3]`, normalised where augment.place is "host"; where it is "device", mere
        crops in [0, 1], for `augmentations.TwoViews` in the model. Labels: int32 `[b]`.

    Raises:
        UserError: a value of `config` is out of range, the replicas cannot share the batch, or the
            source is bad. Past `data.max_corrupt_fraction`, iteration ends with a
            `tf.errors.OpError`, which `clean_errors` makes a UserError.
    """
    _check(config, start_step)
    replicas = input_context.num_replicas_in_sync if input_context else 1
    workers = input_context.num_input_pipelines if input_context else 1
    worker = input_context.input_pipeline_id if input_context else 0
    if config.batch_size % replicas or replicas % workers:
        raise UserError(
            f"batch_size {config.batch_size} cannot be shared by {replicas} replicas on {workers} "
            f"worker(s); give a multiple of {replicas}, and each worker as many replicas."
        )
    batch_size = config.batch_size // replicas
    rows = config.batch_size // workers
    shard = Shard(config.batch_size, first=worker * rows, size=rows)

    source = open_source(source) if isinstance(source, str) else source
    if source.num_examples < config.batch_size:
        logging.warning(
            "%s: its %d images are fewer than batch_size %d, so a batch repeats some of them.",
            source.name, source.num_examples, config.batch_size,
        )
    batches = _two_crops(source, config, shard, start_step, batch_size)
    if config.augment.place == "host":
        batches = _augmented(batches, config, shard, start_step, batch_size)
    if source.class_names is None:
        batches = batches.map(lambda views, labels: (views,))
    return batches.prefetch(tf.data.AUTOTUNE).with_options(_options())


def evaluation_dataset(
    source: str | Source,
    preprocessing: Preprocessing,
    batch_size: int,
    *,
    train_seed: int | None = None,
    limit: int | None = None,
) -> tf.data.Dataset:
    """Every image once, in order, as a frozen encoder sees it; corrupt ones are left out and logged.

    Args:
        source: an opened source, or what `open_source` takes.
        preprocessing: centre crop, size and normalisation.
        batch_size: b; the last batch may be smaller.
        train_seed: where given, a random crop and flip drawn from it take the place of the centre crop:
            linear evaluation's training augmentation (paper appendix C.1).
        limit: where given, this many images at most, evenly spaced over the source and so over a
            folder's classes.

    Returns:
        Dataset of (images float32 `[b, S, S, 3]`, normalised; labels int32 `[b]`, -1 in an unlabelled
        source; keys string `[b]`: the path within a folder, `image/key`, or a record's number).

    Raises:
        UserError: the source or the batch size is bad.
    """
    if batch_size < 1:
        raise UserError(f"the evaluation's batch size is {batch_size}; give at least 1.")
    source = open_source(source) if isinstance(source, str) else source

    def decode(index, name, payload, label):
        image_bytes, label, key = source.load(name, payload, label)
        if train_seed is None:
            return preprocessing(decode_image(image_bytes)), label, key
        crop = augmentations.decode_and_random_crop(
            image_bytes,
            _example_seed(train_seed, _CROP_1, index),
            preprocessing.image_size,
            augmentations.VIEW_1,
        )
        flip_seed = _example_seed(train_seed, _FLIP, index)
        crop = tf.image.stateless_random_flip_left_right(crop, flip_seed)
        return preprocessing.normalize(crop), label, key

    chunks = source.in_order(_chunk_size(preprocessing.image_size), limit)
    chunks = corrupt.decode_chunks(chunks, decode, source.corrupt, max_fraction=1.0)
    valid_only = chunks.map(
        lambda decoded, valid: tuple(tf.boolean_mask(part, valid) for part in decoded)
    )
    return valid_only.rebatch(batch_size).prefetch(tf.data.AUTOTUNE).with_options(_options())


@contextlib.contextmanager
def clean_errors(source: Source) -> Iterator[None]:
    """Raises the UserError behind the `tf.errors.OpError` with which too many corrupt images end a run.

    with clean_errors(source):
        model.fit(two_view_dataset(source, config))
    """
    try:
        yield
    except tf.errors.OpError as error:
        if source.corrupt.error is None:
            raise
        raise source.corrupt.error from error


def _two_crops(source, config, shard, start_step, batch_size) -> tf.data.Dataset:
    """Dataset of `((crops_1, crops_2), labels)`: float32 `[b, S, S, 3]` in [0, 1], int32 `[b]`."""
    view_1, view_2 = _views(config)

    def crop(image_bytes, use, position, view):
        seed = _example_seed(config.seed, use, position)
        return augmentations.decode_and_random_crop(image_bytes, seed, config.image_size, view)

    def decode(position, name, payload, label):
        image_bytes, label, _ = source.load(name, payload, label)
        crop_1 = crop(image_bytes, _CROP_1, position, view_1)
        crop_2 = crop(image_bytes, _CROP_2, position, view_2)
        return crop_1, crop_2, label

    def fill(decoded, valid):
        crops_1, crops_2, labels = corrupt.replace_corrupt(decoded, valid, source.corrupt)
        return (crops_1, crops_2), labels

    chunk_size = _chunk_size(config.image_size)
    chunks = source.shuffled(
        config.seed, shard, start_step, chunk_size, config.data.shuffle_buffer
    )
    chunks = corrupt.decode_chunks(
        chunks, decode, source.corrupt, config.data.max_corrupt_fraction
    )
    return chunks.rebatch(batch_size, drop_remainder=True).map(fill)


def _augmented(batches, config, shard, start_step, batch_size) -> tf.data.Dataset:
    """Batches of crops -> of normalised views: all of T and T' but the crop."""
    two_views = augmentations.TwoViews(
        *_views(config), mean=config.normalize.mean, std=config.normalize.std
    )
    replicas, replicas_here = shard.batch_size // batch_size, shard.size // batch_size

    def augment(index, batch):
        crops, labels = batch
        # Numbers the per-replica batches of the whole run, whichever worker makes them.
        step, replica = start_step + index // replicas_here, index % replicas_here
        number = step * replicas + shard.first // batch_size + replica
        seed = tf.stack([_seed(config.seed, _AUGMENT), tf.cast(number, tf.int32)])
        return two_views(crops, seed=seed), labels

    return batches.enumerate().map(augment, tf.data.AUTOTUNE, deterministic=True)


def _chunk_size(image_size: int) -> int:
    two_crops_bytes = 2 * image_size**2 * 3 * 4
    return int(np.clip(_CHUNK_BYTES // two_crops_bytes, *_CHUNK_EXAMPLES))


def _example_seed(seed: int, use: int, position: tf.Tensor) -> tf.Tensor:
    """int64 `[2]`."""
    return tf.stack([tf.constant(_seed(seed, use), tf.int64), position])


def _seed(seed: int, use: int) -> int:
    """31 bits, independent from one use of `seed` to another."""
    return int(np.random.SeedSequence([seed, use]).generate_state(1)[0] >> 1)


def _views(config) -> tuple[augmentations.ViewConfig, augmentations.ViewConfig]:
    return (
        augmentations.ViewConfig(**config.augment.view_1),
        augmentations.ViewConfig(**config.augment.view_2),
    )


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options


def _check(config, start_step: int) -> None:
    for name, value, smallest in (
        ("seed", config.seed, 0),
        ("batch_size", config.batch_size, 1),
        ("image_size", config.image_size, 1),
        ("data.shuffle_buffer", config.data.shuffle_buffer, 1),
        ("start_step", start_step, 0),
    ):
        if value is None or value < smallest:
            raise UserError(f"{name} is {value}; give {smallest} or more.")
    if not 0 <= config.data.max_corrupt_fraction <= 1:
        raise UserError(
            f"data.max_corrupt_fraction is {config.data.max_corrupt_fraction}; give a part of the "
            "images, in [0, 1]."
        )
    if config.augment.place not in ("host", "device"):
        raise UserError(f"augment.place is '{config.augment.place}'; give 'host' or 'device'.")

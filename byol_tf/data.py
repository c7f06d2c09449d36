"""tf.data batches of encoded images: views, labelled crops, images for evaluation.

Training input is a pure function of (seed, step), so a run resumes from the number of its step. The
order of epoch e is drawn from (seed, e), and the views of the example at position p of the endless
sequence of epochs from (seed, p), for every batch size and number of workers. Each file is read
once for its views.
"""

import contextlib
from collections.abc import Callable, Iterator

import ml_collections
import numpy as np
import tensorflow as tf
from absl import logging

from byol_tf.configs.defaults import check_channels
from byol_tf.errors import UserError
from byol_tf.images import augmentations, random_crop
from byol_tf.images.file_formats import decodable
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.images.size_limit import bounded
from byol_tf.images.view_config import SmallCrops
from byol_tf.sources import Shard, Source, corrupt, open_source

# A chunk of decoded crops has enough examples to make its overhead small, and few enough that one
# chunk per core fits into memory.
_CHUNK_BYTES = 16 << 20
_CHUNK_EXAMPLES = (16, 64)
_SHUFFLE_BUFFER = 10_000
_VIEWS, _CROP, _FLIP = range(3)  # Uses of a seed, which must be independent.


def two_view_dataset(
    source: str | Source,
    config: ml_collections.ConfigDict,
    *,
    start_step: int = 0,
    input_context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Returns endless batches of two views of each image.

    A global batch is `config.batch_size` consecutive positions of the endless sequence of shuffled
    epochs, and may span two epochs. With an `input_context`
    (`strategy.distribute_datasets_from_function`) the dataset yields per-replica batches,
    b = batch_size / replicas: the worker's rows of every global batch. A corrupt image is replaced
    by another of its batch, so that positions stay exact.

    Args:
        source: Opened source, or a name that `open_source` takes.
        config: Config of which seed, batch_size, image_size, augment, normalize and data are used.
        start_step: Number of the first global batch, from 0.
        input_context: Context of the worker, under a strategy.

    Returns:
        Dataset of `((view_1, view_2), labels)`, or `((view_1, view_2),)` for an unlabelled source.
        Views: float32 `[b, S, S, C]`, normalised if augment.run_on is "host"; if it is "device",
        only crops in [0, 1], for `augmentations.TwoViews` in the model. Labels: int32 `[b]`. With
        augment.small_crops = N, N small crops follow the two views, which stay the same.

    Raises:
        UserError: A value of `config` is out of range, the replicas cannot share the batch, or the
            source is bad. If more than `data.max_corrupt_fraction` of the images are corrupt,
            iteration ends with a `tf.errors.OpError`, which `clean_errors` turns into a UserError.
    """
    check_config(config)
    if start_step < 0:
        raise UserError(f"start_step is {start_step}; give 0 or more.")
    replicas = input_context.num_replicas_in_sync if input_context else 1
    workers = input_context.num_input_pipelines if input_context else 1
    worker = input_context.input_pipeline_id if input_context else 0
    if config.batch_size % replicas or replicas % workers:
        raise UserError(
            f"batch_size {config.batch_size} cannot be shared by {replicas} replicas on {workers} "
            f"worker(s); give a multiple of {replicas}, and each worker the same number of "
            "replicas."
        )
    batch_size = config.batch_size // replicas
    rows = config.batch_size // workers
    shard = Shard(config.batch_size, first=worker * rows, size=rows)

    source = open_source(source) if isinstance(source, str) else source
    if source.num_examples < config.batch_size:
        logging.warning(
            "%s: there are %d images, fewer than batch_size %d, so a batch repeats some of them.",
            source.name,
            source.num_examples,
            config.batch_size,
        )

    def fill(decoded, valid):
        *views, labels = corrupt.replace_corrupt(decoded, valid, source.corrupt)
        return (tuple(views),) if source.class_names is None else (tuple(views), labels)

    examples = source.shuffled(
        config.seed,
        shard,
        start_step,
        _chunk_size(config.image_size, config.get("channels", 3)),
        config.data.shuffle_buffer,
    )
    decoded = corrupt.decode_chunks(
        examples,
        _decoder_of_two_views(source, config),
        source.corrupt,
        config.data.max_corrupt_fraction,
    )
    batches = decoded.rebatch(batch_size, drop_remainder=True).map(fill)
    return batches.prefetch(tf.data.AUTOTUNE).with_options(_options())


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises `UserError` where a value that `two_view_dataset` uses is out of range."""
    for name, value, smallest in (
        ("seed", config.seed, 0),
        ("batch_size", config.batch_size, 1),
        ("image_size", config.image_size, 1),
        ("data.shuffle_buffer", config.data.shuffle_buffer, 1),
    ):
        if value is None or value < smallest:
            raise UserError(f"{name} is {value}; give {smallest} or more.")
    check_channels(config)
    if not 0 <= config.data.max_corrupt_fraction <= 1:
        raise UserError(
            f"data.max_corrupt_fraction is {config.data.max_corrupt_fraction}; give a fraction of "
            "the images, in [0, 1]."
        )
    if "place" in config.augment:
        raise UserError("augment.place is now called augment.run_on; rename it in the config.")
    if config.augment.run_on not in ("host", "device"):
        raise UserError(f"augment.run_on is '{config.augment.run_on}'; give 'host' or 'device'.")
    SmallCrops.from_config(config.augment)


def evaluation_dataset(
    source: str | Source,
    preprocessing: Preprocessing,
    batch_size: int,
    *,
    limit: int | None = None,
) -> tf.data.Dataset:
    """Returns every image once, in order, preprocessed for a frozen encoder.

    Corrupt images are logged and left out.

    Args:
        source: Opened source, or a name that `open_source` takes.
        preprocessing: Centre crop, size and normalisation.
        batch_size: b; the last batch may be smaller.
        limit: If given, at most this many images, evenly spaced over the source and so over the
            classes of a folder.

    Returns:
        Dataset of (images float32 `[b, S, S, C]`, normalised; labels int32 `[b]`, -1 in an
        unlabelled source; keys string `[b]`: the path within a folder, `image/key`, or the number
        of a record).

    Raises:
        UserError: The source or the batch size is bad.
    """

    def decode(index, image_bytes):
        return preprocessing(preprocessing.decode(image_bytes))

    return _each_image_once(source, preprocessing, batch_size, limit, decode)


def augmented_dataset(
    source: str | Source,
    preprocessing: Preprocessing,
    batch_size: int,
    seed: int,
    *,
    limit: int | None = None,
) -> tf.data.Dataset:
    """Returns every image once, in order, randomly cropped and flipped.

    This is a training pass of linear evaluation (paper appendix C.1): `evaluation_dataset` with a
    random crop and flip instead of the centre crop.

    Args:
        source, preprocessing, batch_size, limit: Arguments of `evaluation_dataset`.
        seed: Seed of crops and flips.

    Returns:
        Dataset like that of `evaluation_dataset`.

    Raises:
        UserError: The source or the batch size is bad.
    """

    def decode(index, image_bytes):
        return _crop_and_flip(image_bytes, preprocessing, seed, index)

    return _each_image_once(source, preprocessing, batch_size, limit, decode)


def labelled_dataset(
    source: Source, preprocessing: Preprocessing, batch_size: int, seed: int
) -> tf.data.Dataset:
    """Returns endless batches of random crops and flips with labels, to fine-tune a classifier.

    The order of epoch e is drawn from (seed, e), crop and flip of the example at position p of the
    endless sequence of epochs from (seed, p). A batch is `batch_size` consecutive positions and may
    span two epochs. A corrupt image is replaced by another of its batch.

    Args:
        source: Labelled source. TFRecords and TFDS are shuffled through a buffer of 10,000 records,
            a `SubsetSource` and a folder as a whole.
        preprocessing: Size and normalisation.
        batch_size: b.
        seed: Seed of order, crops and flips.

    Returns:
        Dataset of (images float32 `[b, S, S, C]`, normalised; labels int32 `[b]`).
    """

    def decode(position, name, payload, label):
        image_bytes, label, _ = _load(source, name, payload, label)
        return _crop_and_flip(image_bytes, preprocessing, seed, position), label

    chunks = source.shuffled(
        seed,
        Shard(batch_size, first=0, size=batch_size),
        start_step=0,
        chunk_size=_chunk_size(preprocessing.image_size, preprocessing.channels),
        shuffle_buffer=_SHUFFLE_BUFFER,
    )
    decoded = corrupt.decode_chunks(chunks, decode, source.corrupt, max_fraction=1.0)
    batches = decoded.rebatch(batch_size, drop_remainder=True).map(
        lambda parts, valid: corrupt.replace_corrupt(parts, valid, source.corrupt)
    )
    return batches.prefetch(tf.data.AUTOTUNE).with_options(_options())


@contextlib.contextmanager
def clean_errors(source: Source) -> Iterator[None]:
    """Raises the `UserError` behind a `tf.errors.OpError` if corrupt images ended a run.

    with clean_errors(source):
        model.fit(two_view_dataset(source, config))
    """
    try:
        yield
    except tf.errors.OpError as error:
        if source.corrupt.error is None:
            raise
        raise source.corrupt.error from error


def _each_image_once(
    source: str | Source,
    preprocessing: Preprocessing,
    batch_size: int,
    limit: int | None,
    decode: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
) -> tf.data.Dataset:
    """Returns batches of `decode(index, image_bytes)`, labels and keys, without corrupt images."""
    if batch_size < 1:
        raise UserError(f"the evaluation's batch size is {batch_size}; give at least 1.")
    source = open_source(source) if isinstance(source, str) else source

    def decode_example(index, name, payload, label):
        image_bytes, label, key = _load(source, name, payload, label)
        return decode(index, image_bytes), label, key

    chunk_size = _chunk_size(preprocessing.image_size, preprocessing.channels)
    chunks = source.in_order(chunk_size, limit)
    chunks = corrupt.decode_chunks(chunks, decode_example, source.corrupt, max_fraction=1.0)
    valid_only = chunks.map(
        lambda decoded, valid: tuple(tf.boolean_mask(part, valid) for part in decoded)
    )
    return valid_only.rebatch(batch_size).prefetch(tf.data.AUTOTUNE).with_options(_options())


def _load(
    source: Source, name: tf.Tensor, payload: tf.Tensor, label: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Loads an example like `Source.load`, as a file that TensorFlow decodes and not too large."""
    image_bytes, label, key = source.load(name, payload, label)
    return bounded(decodable(image_bytes)[tf.newaxis])[0], label, key


def _decoder_of_two_views(
    source: Source, config: ml_collections.ConfigDict
) -> Callable[..., tuple]:
    """Returns a function from an example to `(*views, label)`; views may be mere crops."""
    two_views = augmentations.TwoViews(
        config.augment.view_1,
        config.augment.view_2,
        mean=config.normalize.mean,
        std=config.normalize.std,
        bit_depth=config.get("bit_depth", 8),
        small=SmallCrops.from_config(config.augment),
    )

    def decode(position, name, payload, label):
        image_bytes, label, _ = _load(source, name, payload, label)
        seed = _example_seed(config.seed, _VIEWS, position)
        if config.augment.run_on == "host":
            views = two_views.from_bytes(image_bytes, seed, config.image_size)
        else:
            views = two_views.crops(image_bytes, seed, config.image_size)
        return *views, label

    return decode


def _crop_and_flip(
    image_bytes: tf.Tensor, preprocessing: Preprocessing, seed: int, position: tf.Tensor
) -> tf.Tensor:
    """Augments an image to train classifiers (appendix C.1): float32 `[S, S, C]`, normalised."""
    crop = random_crop.decode_and_random_crop(
        image_bytes,
        _example_seed(seed, _CROP, position),
        preprocessing.image_size,
        augmentations.VIEW_1,
        preprocessing.channels,
        preprocessing.bit_depth,
    )
    flip_seed = _example_seed(seed, _FLIP, position)
    crop = tf.image.stateless_random_flip_left_right(crop, flip_seed)
    return preprocessing.normalize(crop)


def _chunk_size(image_size: int, channels: int) -> int:
    two_crops_bytes = 2 * image_size**2 * channels * 4
    return int(np.clip(_CHUNK_BYTES // two_crops_bytes, *_CHUNK_EXAMPLES))


def _example_seed(seed: int, use: int, position: tf.Tensor) -> tf.Tensor:
    """Returns the seed of one example for one use, int64 `[2]`."""
    return tf.stack([tf.constant(_seed(seed, use), tf.int64), position])


def _seed(seed: int, use: int) -> int:
    """Returns 31 bits that are independent for each use of `seed`."""
    return int(np.random.SeedSequence([seed, use]).generate_state(1)[0] >> 1)


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options

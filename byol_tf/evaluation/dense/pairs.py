"""Pairs of an image and a map in batches, and training on them, shared by the dense protocols.

The encoder is fine-tuned as a whole with BatchNorm in training mode: training uses batch statistics
and evaluation their running averages.
"""

import concurrent.futures
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras
import ml_collections
import tensorflow as tf
from absl import logging

from byol_tf.errors import UserError
from byol_tf.evaluation.finetuner import Diverged
from byol_tf.images.preprocessing import Preprocessing, decode_image
from byol_tf.sources.source import shuffled_indices

if TYPE_CHECKING:
    from PIL.Image import Image

_SECONDS_BETWEEN_LOGS = 10


def check_training(name: str, config: ml_collections.ConfigDict) -> None:
    """Raises `UserError` if a value of section `name` that `fit` or `batches` uses is bad."""
    for field, fits, wanted in (
        ("steps", config.steps >= 1, "at least 1"),
        ("batch_size", config.batch_size >= 1, "at least 1"),
        ("momentum", 0 <= config.momentum < 1, "a number in [0, 1)"),
        ("weight_decay", config.weight_decay >= 0, "0 or more"),
        (
            "decay_at",
            list(config.decay_at) == sorted(config.decay_at)
            and all(0 < part < 1 for part in config.decay_at),
            "increasing numbers in (0, 1), fractions of the steps",
        ),
    ):
        if not fits:
            raise UserError(f"{name}.{field} is {config[field]}; give {wanted}.")


def check_pairs(
    pairs: Sequence[tuple[str, str]],
    check: Callable[["Image", str], None],
    decode: Callable[[tf.Tensor], tf.Tensor] = decode_image,
) -> None:
    """Decodes every image and map once, before hours of training.

    Args:
        pairs: Paths of an image and its map.
        check: Function called with each map (`PIL.Image.Image`) and its path; raises `UserError`.
        decode: Function from a file to the image, such as `Preprocessing.decode`.

    Raises:
        UserError: A file is not a complete image, a map has another size than its image, or what
            `check` raises.
    """

    def check_pair(pair: tuple[str, str]) -> None:
        width, height = _image_size(pair[0], decode)
        annotation = _open_map(pair[1])
        if (width, height) != annotation.size:
            raise UserError(
                "'{}' has {} x {} pixels, but its map '{}' has {} x {}; make them equal.".format(
                    pair[0], width, height, pair[1], *annotation.size
                )
            )
        check(annotation, pair[1])

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for done, _ in enumerate(pool.map(check_pair, pairs), start=1):
            logging.log_every_n_seconds(
                logging.INFO, "checked %d of %d pairs", _SECONDS_BETWEEN_LOGS, done, len(pairs)
            )


def read_image(path: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Reads an image file, of the channels and depth of `preprocessing`.

    Returns:
        float32 `[H, W, C]` in [0, 1].
    """
    pixels = preprocessing.decode(tf.io.read_file(path))
    return tf.cast(pixels, tf.float32) / (2.0**preprocessing.bit_depth - 1.0)


def batches(
    pairs: Sequence[tuple[str, str]],
    example: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Any],
    batch_size: int,
    steps: int,
    seed: int,
) -> tf.data.Dataset:
    """Returns training batches of consecutive shuffled epochs; a batch may span two epochs.

    Args:
        pairs: N pairs of paths, of an image and its map.
        example: Function of both paths, scalar strings, and an example's own seed, int64 `[2]`,
            that returns its tensors.
        batch_size: Batch size B.
        steps: Number of batches.
        seed: Seed of the orders and of the examples' seeds.
    """
    images, maps = (tf.constant(paths) for paths in zip(*pairs, strict=True))

    def load(position, index):
        return example(images[index], maps[index], tf.stack([seed, position]))

    # Examples have seeds (seed, position), orders negative ones: no two draws share a seed.
    examples = shuffled_indices(len(pairs), -1 - seed)
    loaded = examples.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return loaded.batch(batch_size, drop_remainder=True).take(steps).prefetch(tf.data.AUTOTUNE)


def fit(
    model: keras.Model,
    loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    dataset: tf.data.Dataset,
    learning_rate: float,
    config: ml_collections.ConfigDict,
) -> None:
    """Trains with SGD; the learning rate is multiplied by 0.1 at each of `config.decay_at`.

    Weight decay adds half the squared norm of the kernels to the loss; biases and BatchNorm have
    none. The paper does not say which weights it decays.

    Args:
        model: Model from float32 `[B, H, W, C]` to the outputs that `loss` takes; trained in place.
        loss: Function (targets, outputs) -> scalar.
        dataset: Data set of `config.steps` batches (images, targets).
        learning_rate: Learning rate at the start.
        config: Section, of which `steps`, `decay_at`, `momentum` and `weight_decay` are used.

    Raises:
        Diverged: The loss is no longer finite.
    """
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [round(config.steps * part) for part in config.decay_at],
        [learning_rate * 0.1**drops for drops in range(len(config.decay_at) + 1)],
    )
    optimizer = keras.optimizers.SGD(schedule, config.momentum)
    fit_with(optimizer, model, loss, dataset, learning_rate, config)


def fit_with(
    optimizer: keras.optimizers.Optimizer,
    model: keras.Model,
    loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    dataset: tf.data.Dataset,
    learning_rate: float,
    config: ml_collections.ConfigDict,
) -> None:
    """Trains like `fit`, with an optimizer and its schedule; `learning_rate` is for messages."""
    kernels = [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]

    def decayed_loss(targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        squares = tf.add_n([tf.nn.l2_loss(kernel) for kernel in kernels])
        return loss(targets, outputs) + config.weight_decay * squares

    # Without XLA, whose convolutions are slow on a CPU; Keras 3 would choose it.
    model.compile(optimizer, decayed_loss, jit_compile=False)
    model.fit(
        dataset,
        steps_per_epoch=config.steps,
        shuffle=False,
        verbose=0,
        callbacks=[Progress(config.steps, learning_rate)],
    )


class Progress(keras.callbacks.Callback):
    """Callback that logs the mean loss since the last line and stops a training that diverged."""

    def __init__(self, steps: int, learning_rate: float):
        super().__init__()
        self._steps = steps
        self._learning_rate = learning_rate
        self._logged = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
        if not math.isfinite(logs["loss"]):
            raise Diverged(
                f"training with the learning rate {self._learning_rate:g} diverged at step "
                f"{batch + 1} of {self._steps}; give a lower one."
            )
        if time.monotonic() - self._logged > _SECONDS_BETWEEN_LOGS:
            logging.info("step %d of %d: loss %.4f", batch + 1, self._steps, logs["loss"])
            self.model.reset_metrics()
            self._logged = time.monotonic()


def _image_size(path: str, decode: Callable[[tf.Tensor], tf.Tensor]) -> tuple[int, int]:
    """Returns width and height of the upright image, as training decodes it."""
    try:
        height, width, _ = decode(tf.io.read_file(path)).shape
    except tf.errors.OpError as error:
        raise UserError(f"'{path}' cannot be read ({error.message}); replace it.") from error
    return width, height


def _open_map(path: str) -> "Image":
    try:
        import PIL.Image
    except ImportError as error:
        raise UserError(
            'segmentation and depth need Pillow; run pip install "byol_tf[evaluation]".'
        ) from error
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            picture = PIL.Image.open(file, formats=["PNG"])
            picture.load()
    except (OSError, SyntaxError, tf.errors.OpError) as error:  # SyntaxError: a broken PNG.
        raise UserError(f"'{path}' cannot be read ({error}); replace it.") from error
    return picture

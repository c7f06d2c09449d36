"""What a training would do and how long it would take, measured on a few of its steps.

Nothing is written.
"""

import collections
import dataclasses
import datetime
import math
import os
import time
from collections.abc import Iterable

import keras
import ml_collections
import tensorflow as tf

from byol_tf import data, keras_compat, weights
from byol_tf.build import build_model
from byol_tf.evaluation.results import environment
from byol_tf.evaluation.subsets import list_examples
from byol_tf.images.view_config import SmallCrops
from byol_tf.models import schedules
from byol_tf.models.precision import resolve_precision
from byol_tf.sources import Source
from byol_tf.training import channel_statistics
from byol_tf.training import strategy as strategies

_WARM_UP = 2  # Steps that are not timed: they compile, and find a prefetched batch.
_SMALL_BATCH = 8
_SECONDS = 2.0  # Time to spend on timed steps,
_MOST_STEPS = 50  # and their largest number, with those before.


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """A training that has not begun.

    Attributes:
        num_examples: Number of images.
        batch_size, epochs, steps_per_epoch: Values as the training will use them.
        method, architecture, image_size, precision: Values as the training will use them.
        device: Names of the GPUs, or of the CPU.
        timed_steps, timed_batch: Number of steps that were timed, and images in each; fewer than
            `batch_size` if a step would take long.
        seconds: Estimated time of all steps.
        small_crops: Small crops of each image beside its two views, or None.
    """

    num_examples: int
    batch_size: int
    epochs: int
    steps_per_epoch: int
    method: str
    architecture: str
    image_size: int
    precision: str
    device: str
    timed_steps: int
    timed_batch: int
    seconds: float
    small_crops: SmallCrops | None = None

    def lines(self) -> list[str]:
        """Returns sentences for the terminal: the training, and the estimate of its time."""
        total = self.steps_per_epoch * self.epochs
        few = self.num_examples < self.batch_size
        small = self.small_crops
        crops = ""
        if small:
            crops = f" and {_count(small.count, 'small crop')} of {small.size} x {small.size}"
        time_needed = datetime.timedelta(seconds=math.ceil(self.seconds))
        return [
            f"Training: {self.method} with {self.architecture} on {self.num_examples} images, "
            f"{self.image_size} x {self.image_size}{crops} pixels, in {self.precision}; "
            f"{_count(self.epochs, 'epoch')} of {_count(self.steps_per_epoch, 'step')}, "
            f"{_count(total, 'step')} of {self.batch_size} images in all."
            + (" A batch has more images than there are, and repeats some." if few else ""),
            f"Time: about {time_needed} (hours:minutes:seconds) on this machine ({self.device}). "
            f"This is an estimate from {_count(self.timed_steps, 'step')} of {self.timed_batch} "
            "images; it leaves out start-up, checkpoints and the accuracy measured between epochs.",
        ]


def plan(
    config: ml_collections.ConfigDict, source: str | Source, strategy: str = "default"
) -> TrainingPlan:
    """Trains a few steps of the config's model on the images, and keeps nothing of them.

    A step that would take longer than a few seconds is timed with fewer images and scaled up.

    Args:
        config: Config with the fields of `byol_tf.configs.defaults`.
        source: Images, as for `data.open_source`, or an opened source.
        strategy: Name of a strategy, one of `choices.STRATEGIES`.

    Raises:
        UserError: A value or the image set is bad.
    """
    distribution = strategies.build_strategy(strategy)
    config = ml_collections.ConfigDict(config.to_dict())
    config.precision = resolve_precision(config.precision)
    data.check_config(config)
    strategies.check_batch_size(config.batch_size, distribution)
    source = data.open_source(source) if isinstance(source, str) else source
    channel_statistics.resolve(config, source)
    steps_per_epoch = schedules.steps_per_epoch(source.num_examples, config.batch_size)

    # A batch that every replica can cut into its micro-batches, two images in each.
    unit = distribution.num_replicas_in_sync * config.micro_batches
    batch_size = unit * max(2, math.ceil(_SMALL_BATCH / unit))
    if config.batch_size <= 4 * batch_size:  # Not worth a second compilation.
        batch_size = config.batch_size
    architecture, times = _timed(config, source, distribution, batch_size)
    expected = min(times) * config.batch_size / batch_size
    if batch_size < config.batch_size and expected * (_WARM_UP + 1) < _SECONDS:
        batch_size = config.batch_size
        _, times = _timed(config, source, distribution, batch_size)
    per_image = sum(times) / len(times) / batch_size
    hardware = environment()["hardware"]
    return TrainingPlan(
        num_examples=source.num_examples,
        batch_size=config.batch_size,
        epochs=config.epochs,
        steps_per_epoch=steps_per_epoch,
        method=config.method,
        architecture=architecture,
        image_size=config.image_size,
        precision=config.precision,
        device=", ".join(hardware["gpus"]) or f"{hardware['cpus']} x {hardware['cpu']}",
        timed_steps=len(times),
        timed_batch=batch_size,
        seconds=per_image * config.batch_size * steps_per_epoch * config.epochs,
        small_crops=SmallCrops.from_config(config.augment),
    )


def describe(
    config: ml_collections.ConfigDict, data_dir: str, strategy: str = "default"
) -> list[str]:
    """Returns sentences about a data set by name, and about a training on it; see `plan`."""
    source = data.open_source(data_dir)
    classes = source.class_names
    labels = f"in {len(classes)} classes, which are for reports only" if classes else "no labels"
    listed = kinds(list_examples(source).keys)
    return [
        f"Data: '{data_dir}' has {source.num_examples} images ({listed}), {labels}.",
        *plan(config, source, strategy).lines(),
    ]


def kinds(names: Iterable[str]) -> str:
    """Returns how many names there are of each kind, by extension: "jpg 270, png 9"."""
    extensions = (os.path.splitext(name)[1].lower()[1:] for name in names)
    counts = collections.Counter(extension or "without extension" for extension in extensions)
    return ", ".join(f"{kind} {count}" for kind, count in counts.most_common())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _timed(
    config: ml_collections.ConfigDict,
    source: Source,
    distribution: tf.distribute.Strategy,
    batch_size: int,
) -> tuple[str, list[float]]:
    """Returns the name of the encoder, and the seconds of a few training steps."""
    config = ml_collections.ConfigDict(config.to_dict() | {"batch_size": batch_size})
    steps_per_epoch = schedules.steps_per_epoch(source.num_examples, batch_size)
    start = weights.read_start(config)
    assign = start.assign_to if start else None
    model = build_model(config, steps_per_epoch, source.class_names, distribution, assign)
    # As a training does: a step that makes the slots itself is traced twice.
    keras_compat.build_optimizer(model)
    timer = _Timer()
    views = distribution.distribute_datasets_from_function(
        lambda context: data.two_view_dataset(source, config, input_context=context)
    )
    with data.clean_errors(source):
        model.fit(views, steps_per_epoch=_MOST_STEPS, callbacks=[timer], verbose=0)
    return model.encoder.name, timer.times


class _Timer(keras.callbacks.Callback):
    """Times steps after the first ones, and ends the training after `_SECONDS` of them."""

    def __init__(self):
        super().__init__()
        self.times: list[float] = []
        self._last = 0.0

    def on_train_batch_end(self, batch: int, logs: dict) -> None:
        """Notes the time of the step; its `logs` are there only once it is finished."""
        now = time.monotonic()
        if batch >= _WARM_UP:
            self.times.append(now - self._last)
        self._last = now
        self.model.stop_training = bool(self.times) and sum(self.times) >= _SECONDS

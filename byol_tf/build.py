"""Builds the parts of a config: method, encoder, augmentation, preprocessing."""

import importlib
from collections.abc import Callable, Sequence

import keras
import ml_collections
import tensorflow as tf
from absl import logging

from byol_tf.errors import UserError
from byol_tf.images.augmentations import TwoViews
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.images.view_config import SmallCrops
from byol_tf.models import backbones, multi_crop, optimizers, schedules
from byol_tf.models.byol import BYOL
from byol_tf.models.precision import policy_scope
from byol_tf.models.simclr import SimCLR
from byol_tf.models.simsiam import SimSiam
from byol_tf.models.two_view_model import TwoViewModel
from byol_tf.models.vicreg import VICReg

METHODS = {"byol": BYOL, "simclr": SimCLR, "simsiam": SimSiam, "vicreg": VICReg}


def find_method(name: str) -> type[TwoViewModel]:
    """Returns the class of a method.

    Args:
        name: A key of `METHODS`, or the dotted name of your own `TwoViewModel`.

    Raises:
        UserError: There is no such method.
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
        f"the method '{name}' is unknown; give one of {', '.join(METHODS)}, or module.Class of a "
        "TwoViewModel."
    )


def build_model(
    config: ml_collections.ConfigDict,
    steps_per_epoch: int,
    class_names: Sequence[str] | None,
    distribution: tf.distribute.Strategy,
    start: Callable[[keras.Model], None] | None = None,
) -> TwoViewModel:
    """Returns the compiled model of `config`, its weights drawn from `config.seed`.

    Args:
        config: Config with the fields of `configs.defaults`.
        steps_per_epoch: Number of steps per epoch, for the schedules.
        class_names: Class names of the data, or None for unlabelled images.
        distribution: Strategy under whose scope the model is built.
        start: Sets the weights of the encoder, before the method copies it for its target.
    """
    total_steps = steps_per_epoch * config.epochs
    augmentation = build_augmentation(config) if config.augment.run_on == "device" else None
    keras.utils.set_random_seed(config.seed)
    with distribution.scope(), policy_scope(config.precision):
        method = find_method(config.method)
        small = SmallCrops.from_config(config.augment)
        if small and not method.MULTI_CROP:
            known = [name for name, one in METHODS.items() if one.MULTI_CROP]
            raise UserError(
                f"the method '{config.method}' learns from two views and takes no small crops; set "
                f"augment.small_crops to 0, or method to {' or '.join(known)}."
            )
        encoder = build_encoder(config)
        if small:
            multi_crop.check_size(encoder, small.size)
        if start is not None:
            start(encoder)
        model = method(
            encoder,
            total_steps=total_steps,
            num_classes=len(class_names) if class_names and config.online_classifier else None,
            augmentation=augmentation,
            micro_batches=config.micro_batches,
            seed=config.seed,
            **{field: config[field] for field in method.CONFIG_FIELDS},
        )
        warmup_steps = round(config.optimizer.warmup_epochs * steps_per_epoch)
        if warmup_steps > total_steps:
            logging.warning(
                "optimizer.warmup_epochs (%g) is longer than the run (%d epochs), so the learning "
                "rate never reaches base_lr; lower it, or train longer.",
                config.optimizer.warmup_epochs,
                config.epochs,
            )
        learning_rate = schedules.WarmupCosine(
            schedules.scale_lr(config.optimizer.base_lr, config.batch_size),
            min(warmup_steps, total_steps),
            total_steps,
        )
        model.compile(optimizers.build_optimizer(config, learning_rate))
    return model


def build_encoder(config: ml_collections.ConfigDict) -> keras.Model:
    """Returns the encoder of `config.encoder`, newly initialised.

    Its field `name` says which (`backbones.build`); the others are that encoder's arguments.

    Raises:
        UserError: There is no such encoder, or it cannot be built like this.
    """
    arguments = config.encoder.to_dict()
    arguments.pop("weights", None)  # Where a training starts; the network is the same.
    name = arguments.pop("name", "resnet")  # Runs from before there were others do not say it.
    channels = config.get("channels", 3)  # Nor that.
    return backbones.build(name, config.image_size, arguments, channels)


def build_float32_encoder(config: ml_collections.ConfigDict) -> keras.Model:
    """Returns `build_encoder(config)`, computing in float32 whatever precision it is trained in."""
    with policy_scope("float32"):
        return build_encoder(config)


def build_augmentation(config: ml_collections.ConfigDict) -> TwoViews:
    """Returns the layer for the views of `config.augment`, normalised by `config.normalize`."""
    return TwoViews(
        config.augment.view_1.to_dict(),
        config.augment.view_2.to_dict(),
        config.normalize.mean,
        config.normalize.std,
        config.get("bit_depth", 8),
        SmallCrops.from_config(config.augment),
    )


def preprocessing_from_config(config: ml_collections.ConfigDict) -> Preprocessing:
    """Returns the preprocessing for evaluating and serving an encoder trained with `config`."""
    return Preprocessing(
        config.image_size,
        config.eval_crop_fraction,
        config.normalize.mean,
        config.normalize.std,
        config.get("eval_resize", "bicubic"),  # Runs from before there was another do not say it.
        config.get("bit_depth", 8),
    )

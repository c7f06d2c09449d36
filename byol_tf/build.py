"""Builds what a config describes: method, encoder, augmentation, preprocessing."""

import importlib

import keras
from absl import logging

from byol_tf.errors import UserError
from byol_tf.images.augmentations import TwoViews
from byol_tf.images.preprocessing import Preprocessing
from byol_tf.models import networks, optimizers, schedules
from byol_tf.models.byol import BYOL
from byol_tf.models.precision import policy_scope
from byol_tf.models.simclr import SimCLR
from byol_tf.models.two_view_model import TwoViewModel

METHODS = {"byol": BYOL, "simclr": SimCLR}


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
    augmentation = build_augmentation(config) if config.augment.run_on == "device" else None
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


def build_augmentation(config) -> TwoViews:
    """The views of `config.augment`, normalised by `config.normalize`."""
    return TwoViews(
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

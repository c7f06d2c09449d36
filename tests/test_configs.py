"""Every recipe parses, has the paper's numbers, and sets only fields that exist."""

import dataclasses
import importlib
import pathlib

import pytest

from byol_tf import build, configs
from byol_tf.configs import defaults, imagenet
from byol_tf.errors import UserError
from byol_tf.images import augmentations

RECIPES = sorted(
    path.stem
    for path in pathlib.Path(configs.__path__[0]).glob("*.py")
    if path.stem not in ("__init__", "defaults", "evaluation")
)


def recipe(name, *arg):
    return importlib.import_module(f"byol_tf.configs.{name}").get_config(*arg)


def fields(config, prefix=""):
    for key, value in config.items():
        yield from fields(value, f"{prefix}{key}.") if hasattr(value, "items") else [prefix + key]


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("arg", [(), ("smoke",)])
def test_recipes_have_exactly_the_default_fields_and_set_the_sizes(name, arg):
    config = recipe(name, *arg)
    wanted = defaults.get_config()
    if config.encoder.name != "resnet":  # Its fields are another function's arguments.
        build.build_encoder(config)
        wanted.encoder = config.encoder
    assert set(fields(config)) == set(fields(wanted))
    assert config.epochs >= 1 and config.batch_size >= 2 and config.image_size >= 32


@pytest.mark.parametrize(
    "epochs, base_lr, weight_decay, base_ema",
    [
        (40, 0.45, 1e-6, 0.97),
        (100, 0.45, 1e-6, 0.99),
        (300, 0.3, 1e-6, 0.99),
        (1000, 0.2, 1.5e-6, 0.996),
    ],
)
def test_imagenet_presets_are_the_papers(epochs, base_lr, weight_decay, base_ema):
    config = imagenet.get_config(str(epochs))
    assert (config.epochs, config.batch_size, config.image_size) == (epochs, 4096, 224)
    assert (config.optimizer.base_lr, config.optimizer.weight_decay) == (base_lr, weight_decay)
    assert (config.base_ema, config.optimizer.warmup_epochs) == (base_ema, 10)
    assert (config.projection_size, config.hidden_size) == (256, 4096)


def test_imagenet_views_are_the_papers_two_distributions():
    config = imagenet.get_config()
    for view, wanted in (
        (config.augment.view_1, augmentations.VIEW_1),
        (config.augment.view_2, augmentations.VIEW_2),
    ):
        assert dataclasses.asdict(augmentations.ViewConfig(**view)) == dataclasses.asdict(wanted)


@pytest.mark.parametrize("name", RECIPES)
def test_an_unknown_argument_is_refused_with_the_known_ones(name):
    with pytest.raises(UserError, match=rf"{name}:foo is unknown; give {name}, .*{name}:smoke\.$"):
        recipe(name, "foo")


def test_unknown_preset_is_named():
    with pytest.raises(ValueError, match="imagenet:55"):
        imagenet.get_config("55")

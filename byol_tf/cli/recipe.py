"""The flag `--config` of the commands that take a recipe."""

import importlib.resources
import re
import shlex
import sys
from collections.abc import Sequence

import ml_collections
from absl import flags
from ml_collections import config_flags

from byol_tf.configs import defaults
from byol_tf.errors import UserError

# Otherwise `--help` would list the flag under this module instead of the command.
flags.disclaim_key_flags()

_RECIPES = (
    "imagenet, cifar10, cifar10_demo, simclr, simclr_cifar10, simsiam, simsiam_cifar10, vicreg, "
    "vicreg_cifar10, vit_small"
)
_CHOICES = f"a recipe ({_RECIPES}) or a Python file with get_config"
_HELP = (
    f"A recipe of byol_tf/configs ({_RECIPES}), "
    "optionally with an argument (imagenet:300, cifar10:smoke), or the path of a Python file with "
    "get_config. Override any field: --config.epochs=50 --config.encoder.depth=34. The defaults "
    "are the paper's. --config.encoder.name=ConvNeXtTiny takes another encoder: vit, one of "
    "keras.applications or KerasHub, or module.function of your own; its arguments are fields too. "
    "--config.channels=1 and --config.bit_depth=16 take other images than RGB."
)


def define_config(help_string: str = _HELP) -> flags.FlagHolder:
    """Defines the flags `--config` and `--config.FIELD`."""
    holder = config_flags.DEFINE_config_file("config", help_string=help_string)
    flag = flags.FLAGS[holder.name]
    flag.parser = _RecipeParser(flag.parser)
    return holder


def resolve_config(holder: flags.FlagHolder | flags.Flag) -> ml_collections.ConfigDict:
    """Returns the config that the user asked for; call it after flags are parsed.

    Raises:
        UserError: The flag is missing.
    """
    if holder.value is None:
        raise UserError(f"--config is missing; give {_CHOICES}.")
    return holder.value.copy_and_resolve_references()


def with_config_paths(argv: Sequence[str], default: str | None = None) -> list[str]:
    """Returns the command line with recipes `--config=NAME[:ARG]` as files, for config_flags.

    Args:
        argv: Command line as the user gave it.
        default: Recipe to use if there is none. A default in the flag's definition would read
            overrides before mistakes in them can become sentences.
    """

    def with_path(argument: str) -> str:
        flag, _, value = argument.partition("=")
        return f"{flag}={_with_path(value)}" if flag in ("--config", "-config") else argument

    # Arguments after a bare -- are for another program.
    ours = argv.index("--") if "--" in argv else len(argv)
    own = [*map(with_path, argv[:ours])]
    if default and not any(argument.lstrip("-").startswith("config=") for argument in own[1:]):
        own.insert(1, f"--config={_with_path(default)}")
    return [*own, *argv[ours:]]


def command_line(program: str) -> str:
    """Returns the command as one would type it, for a record: recipes by name, not by file."""
    recipes = str(importlib.resources.files("byol_tf.configs"))
    pattern = re.compile(rf"^(--?config=){re.escape(recipes)}/(\w+)\.py")
    return shlex.join([program, *(pattern.sub(r"\1\2", argument) for argument in sys.argv[1:])])


class _RecipeParser(flags.ArgumentParser):
    """Makes room for the arguments of the encoder that the command line names.

    ml_collections takes only fields that the recipe has. Those of `config.encoder` are arguments of
    the recipe's encoder; another one comes with its own, which are known only once TensorFlow is
    imported. `build.build_encoder` checks them. Another number of channels switches off what only
    colours have, before other flags are read, so that these can be refused.

    Args:
        parser: Parser of ml_collections.
    """

    def __init__(self, parser: flags.ArgumentParser):
        self._parser = parser

    def parse(self, argument: str) -> ml_collections.ConfigDict:
        """Returns the recipe's config, locked, with a field for each argument given."""
        config = self._parser.parse(argument)
        try:
            getattr(config, "encoder", None)
        except OSError as error:
            # If there is no file, ml_collections says so where a field is read.
            raise flags.ValidationError(
                f"--config={argument} is neither a recipe nor a file; give {_CHOICES}."
            ) from error
        if not isinstance(config, ml_collections.ConfigDict) or "encoder" not in config:
            return config
        given = _encoder_fields(sys.argv)
        before = config.encoder.get("name", "resnet")
        name = given.get("name") or before
        with config.unlocked():
            if name != before:
                defaults.set_encoder(config, name)
            channels = _given_channels(sys.argv)
            if channels is not None and channels != config.get("channels"):
                defaults.set_channels(config, channels)
            for field in given if name != "resnet" else ():
                if field not in config.encoder:
                    config.encoder[field] = ml_collections.config_dict.placeholder(object)
        return config

    def flag_type(self) -> str:
        """Returns what `--help` calls such a value."""
        return self._parser.flag_type()


def _given_channels(argv: Sequence[str]) -> int | None:
    """Returns the number in `--config.channels=N` on a command line, if it is there and one."""
    for argument in argv:
        if match := re.fullmatch(r"--?config\.channels=(\d+)", argument):
            return int(match[1])
    return None


def _encoder_fields(argv: Sequence[str]) -> dict[str, str]:
    """Returns the overrides of `config.encoder` on a command line, as text by field."""
    fields = {}
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        if match := re.fullmatch(
            r"--?(?:no)?config\.encoder\.(\w+)(?:=(.*))?", argument, re.DOTALL
        ):
            fields[match[1]] = following if match[2] is None else match[2]
    return fields


def _with_path(value: str) -> str:
    """Turns `NAME[:ARG]` into `PATH[:ARG]` if NAME is a recipe."""
    name, colon, arg = value.partition(":")
    recipe = importlib.resources.files("byol_tf.configs") / f"{name}.py"
    return f"{recipe}{colon}{arg}" if name.isidentifier() and recipe.is_file() else value

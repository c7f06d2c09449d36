"""The flag `--config` of the commands that take a recipe."""

import importlib.resources
import re
import shlex
import sys
from collections.abc import Sequence

import ml_collections
from absl import flags
from ml_collections import config_flags

from byol_tf.errors import UserError

# Otherwise `--help` would list the flag under this module instead of the command.
flags.disclaim_key_flags()

_RECIPES = (
    "imagenet, cifar10, cifar10_demo, simclr, simclr_cifar10, simsiam, simsiam_cifar10, vicreg, "
    "vicreg_cifar10"
)
_HELP = (
    f"A recipe of byol_tf/configs ({_RECIPES}), "
    "optionally with an argument (imagenet:300, cifar10:smoke), or the path of a Python file with "
    "get_config. Override any field: --config.epochs=50 --config.encoder.depth=34. The defaults "
    "are the paper's."
)


def define_config(help_string: str = _HELP) -> flags.FlagHolder:
    """Defines the flags `--config` and `--config.FIELD`."""
    return config_flags.DEFINE_config_file("config", help_string=help_string)


def resolve_config(holder: flags.FlagHolder | flags.Flag) -> ml_collections.ConfigDict:
    """Returns the config that the user asked for; call it after flags are parsed.

    Raises:
        UserError: The flag is missing, or there is no such recipe.
    """
    recipes = f"a recipe ({_RECIPES}) or a Python file with get_config"
    if holder.value is None:
        raise UserError(f"--config is missing; give {recipes}.")
    try:
        return holder.value.copy_and_resolve_references()
    except OSError as error:  # ml_collections looks for the file only now.
        given = config_flags.get_config_filename(flags.FLAGS[holder.name])
        raise UserError(
            f"--config={given} is neither a recipe nor a file; give {recipes}."
        ) from error


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


def _with_path(value: str) -> str:
    """Turns `NAME[:ARG]` into `PATH[:ARG]` if NAME is a recipe."""
    name, colon, arg = value.partition(":")
    recipe = importlib.resources.files("byol_tf.configs") / f"{name}.py"
    return f"{recipe}{colon}{arg}" if name.isidentifier() and recipe.is_file() else value

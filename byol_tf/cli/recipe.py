"""The flag `--config` of the commands that take a recipe."""

import importlib.resources
from collections.abc import Sequence

import ml_collections
from absl import flags
from ml_collections import config_flags

from byol_tf.errors import UserError

# Else `--help` would count the flag as this module's and not as the command's.
flags.disclaim_key_flags()


def define_config(default: str | None = None) -> flags.FlagHolder:
    """Defines `--config` and `--config.FIELD`.

    Args:
        default: the recipe where none is given, as a user would write it.
    """
    return config_flags.DEFINE_config_file(
        "config",
        default and _with_path(default),
        help_string="A recipe of byol_tf/configs (imagenet, cifar10, cifar10_demo), optionally "
        "with an argument (imagenet:300, cifar10:smoke), or the path of a Python file with "
        "get_config. Any field can be overridden: --config.epochs=50 --config.encoder.depth=34. "
        "The defaults are the paper's.",
    )


def resolve_config(holder: flags.FlagHolder) -> ml_collections.ConfigDict:
    """The config that the user asked for, once flags are parsed.

    Raises:
        UserError: there is none, or no such recipe.
    """
    recipes = "a recipe (imagenet, cifar10, cifar10_demo) or a Python file with get_config"
    if holder.value is None:
        raise UserError(f"--config is missing; give {recipes}.")
    try:
        return holder.value.copy_and_resolve_references()
    except OSError as error:  # ml_collections' way to say, late, that it found no such file.
        given = config_flags.get_config_filename(flags.FLAGS[holder.name])
        raise UserError(f"--config={given} is no recipe and no file; give {recipes}.") from error


def with_config_paths(argv: Sequence[str]) -> list[str]:
    """The command line with each recipe `--config=NAME[:ARG]` as its file, for config_flags."""

    def with_path(argument: str) -> str:
        flag, _, value = argument.partition("=")
        return f"{flag}={_with_path(value)}" if flag in ("--config", "-config") else argument

    # What follows a bare -- is not this program's.
    ours = argv.index("--") if "--" in argv else len(argv)
    return [*map(with_path, argv[:ours]), *argv[ours:]]


def _with_path(value: str) -> str:
    """`NAME[:ARG]`, where NAME is a recipe → `PATH[:ARG]`."""
    name, colon, arg = value.partition(":")
    recipe = importlib.resources.files("byol_tf.configs") / f"{name}.py"
    return f"{recipe}{colon}{arg}" if name.isidentifier() and recipe.is_file() else value

"""Command lines: thin absl mains. Flags are parsed before TensorFlow is imported, so `--help` answers at once."""

import os
import sys
from collections.abc import Callable

from absl import app, flags, logging

from byol_tf.errors import UserError


def run_main(
    main: Callable[[list[str]], None], passes_on: str | None = None, positional: str | None = None
) -> None:
    """Runs `main(argv)` under absl; a mistake the user can mend becomes one sentence and exit status 1.

    Args:
        main: what to run; its module's docstring heads `--help`.
        passes_on: whose flags the user may give after a bare `--`, such as "Beam"; they reach `main` in `argv[1:]`.
        positional: name of the one argument that is no flag and that must be given, such as RUN_DIR; it reaches
            `main` as `argv[1]`. None where all are flags.
    """

    def guarded(argv: list[str]) -> None:
        if positional and len(argv) < 2:
            _fail(f"give {positional}, see --help.")
        for argument in argv[2 if positional else 1 :]:
            if not (passes_on and argument.startswith("--")):
                hint = f", and those of {passes_on} follow a bare --" if passes_on else ""
                _fail(f"unexpected argument '{argument}'; all options are flags, see --help{hint}.")
        try:
            main(argv)
        except UserError as error:
            _fail(str(error))
        except KeyboardInterrupt:
            _fail(
                "interrupted; what was saved stays, and the same command continues a training run.",
                130,
            )

    # absl takes help and flags from the program's main module, which for a console script is pip's wrapper.
    module = sys.modules[main.__module__]
    sys.modules["__main__"].__doc__ = module.__doc__
    for flag in flags.FLAGS.flags_by_module_dict().get(module.__name__, []):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    os.environ.setdefault(
        "TF_CPP_MIN_LOG_LEVEL", "2"
    )  # TensorFlow's C++ notices are not for users.
    logging.set_verbosity(logging.INFO)
    logging.use_absl_handler()
    app.run(guarded, flags_parser=_parse_flags)


def _parse_flags(argv: list[str]) -> list[str]:
    """As absl's own parser, with a sentence also for what ml_collections raises of an override."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _fail(f"{str(error).strip().splitlines()[-1].strip()} (see --help)")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        _fail(f"a --config override does not fit: {' '.join(str(error).split())}")


def _fail(sentence: str, status: int = 1) -> None:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(status)

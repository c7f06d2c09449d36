"""Command lines, as thin absl mains.

Flags are parsed before TensorFlow is imported, so `--help` answers at once.
"""

import contextlib
import faulthandler
import importlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import NoReturn

from absl import app, flags, logging

from byol_tf.errors import UserError


def run_main(
    main: Callable[[list[str]], None], passes_on: str | None = None, positional: str | None = None
) -> None:
    """Runs `main(argv)` under absl; a `UserError` becomes one sentence and exit status 1.

    Args:
        main: Function to run; its module's docstring heads `--help`.
        passes_on: Name of the program whose flags the user may give after a bare `--`, such as
            "Beam"; they reach `main` in `argv[1:]`.
        positional: Name of the one required argument that is not a flag, such as RUN_DIR; it
            reaches `main` as `argv[1]`. None if all arguments are flags.
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
            _fail("interrupted; the same command continues a training run where it was saved.", 130)

    # absl reads help and flags from the program's main module, which is pip's wrapper for a console
    # script.
    module = sys.modules[main.__module__]
    sys.modules["__main__"].__doc__ = module.__doc__
    for flag in flags.FLAGS.flags_by_module_dict().get(module.__name__, []):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    # TensorFlow's C++ notices are not for users.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow turns oneDNN's kernels on by itself on some processors only. On an AMD EPYC with
    # AVX2, where it does not, they train 1.8 times as fast.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    logging.set_verbosity(logging.INFO)
    logging.use_absl_handler()
    app.run(guarded, flags_parser=_parse_flags)


def import_tensorflow() -> None:
    """Imports TensorFlow and finds its devices, without what its C++ code writes of them.

    TF_CPP_MIN_LOG_LEVEL hides neither the errors of a cuDNN, cuFFT and cuBLAS that are registered
    twice nor the lines of current releases (tensorflow/tensorflow issue 100442).
    """
    if "tensorflow" not in sys.modules:
        with hidden_stderr():
            importlib.import_module("tensorflow").config.list_physical_devices()


def warn_of_version(output: str) -> None:
    """Warns if the folder of a new SavedModel is not called by a number."""
    version = os.path.basename(output.rstrip("/"))
    if not version.isdecimal():
        logging.warning("TF Serving needs a number as version, and '%s' is not a number.", version)


@contextlib.contextmanager
def hidden_stderr() -> Iterator[None]:
    """Hides what the body, its C++ code included, writes to stderr.

    If it raises anything but a `UserError`, what was written is shown; if it kills the process,
    Python's stack is.
    """
    traced = faulthandler.is_enabled()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as hidden, os.fdopen(os.dup(2), "wb") as terminal:
        os.dup2(hidden.fileno(), 2)
        if traced:
            faulthandler.enable(terminal)
        try:
            yield
        except UserError:
            raise
        except BaseException:
            hidden.seek(0)
            terminal.write(hidden.read())
            raise
        finally:
            sys.stderr.flush()
            terminal.flush()
            os.dup2(terminal.fileno(), 2)
            if traced:
                faulthandler.enable(2)


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses flags as absl does; errors of ml_collections in an override become a sentence too."""
    try:
        return flags.FLAGS(["--help" if argument == "-h" else argument for argument in argv])
    except SystemExit:  # absl ends with status 1 after --help.
        sys.exit(0)
    except flags.Error as error:
        _fail(f"{_without_repetition(error)} (see --help)")
    except UserError as error:
        _fail(str(error))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # The text of a KeyError is the repr of its message.
        message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        _fail(f"a --config override does not fit: {' '.join(message.split())}")


def _without_repetition(error: flags.Error) -> str:
    """Returns the last line of `error`, or all flags that are missing in one."""
    missing = re.findall(r"Flag (--\w+) must have a value", str(error))
    if len(missing) < 2:
        return str(error).strip().splitlines()[-1].strip()
    if "config" in flags.FLAGS and not flags.FLAGS["config"].present:
        missing.insert(0, "--config")
    return f"Flags {', '.join(missing)} must have values"


def _fail(sentence: str, status: int = 1) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(status)

"""How byol-serve, byol-embed and byol-neighbors run: absl flags, errors as one sentence."""

import faulthandler
import importlib
import logging as python_logging
import os
import re
import sys
import tempfile
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags, logging

from serving.errors import UserError


def run(main: Callable[[list[str]], None]) -> None:
    """Runs `main(arguments)` under absl; a `UserError` becomes one sentence and exit status 1.

    Args:
        main: Function to run, called with the arguments that are not flags. `--help` starts with
            the docstring of its module.
    """

    def guarded(argv: list[str]) -> None:
        try:
            main(argv[1:])
        except UserError as error:
            _fail(str(error))
        except KeyboardInterrupt:
            _fail("interrupted.", 130)
        except BrokenPipeError:  # As with `| head`: the reader has enough, which is not an error.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    # absl takes help and flags from the main module, which for a console script is pip's wrapper.
    module = sys.modules[main.__module__]
    sys.modules["__main__"].__doc__ = module.__doc__
    for flag in flags.FLAGS.get_key_flags_for_module(module.__name__):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    # TensorFlow's C++ notices are not for users.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow turns oneDNN on by itself on some processors only; it is faster on others, too.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    logging.set_verbosity(logging.INFO)
    logging.use_absl_handler()
    logging.get_absl_handler().python_handler.addFilter(_escape)
    for name in ("faiss", "httpx", "tensorflow"):  # They log each import, request and restore.
        python_logging.getLogger(name).setLevel(python_logging.ERROR)
    app.run(guarded, flags_parser=_parse_flags)


def import_tensorflow() -> None:
    """Imports TensorFlow and finds its devices, without what its C++ code writes of them.

    TF_CPP_MIN_LOG_LEVEL hides neither the errors of a cuDNN, cuFFT and cuBLAS that are registered
    twice nor the lines of current releases (tensorflow/tensorflow issue 100442). If the import
    fails, what was written is shown; if it kills the process, Python's stack is.
    """
    if "tensorflow" in sys.modules:
        return
    traced = faulthandler.is_enabled()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as hidden, os.fdopen(os.dup(2), "wb") as terminal:
        os.dup2(hidden.fileno(), 2)
        if traced:
            faulthandler.enable(terminal)
        try:
            importlib.import_module("tensorflow").config.list_physical_devices()
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


def _escape(record: python_logging.LogRecord) -> bool:
    """Escapes line ends and control characters: names and errors come from strangers."""
    record.msg, record.args = "".join(map(_visible, record.getMessage())), ()
    return True


def _visible(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(["--help" if argument == "-h" else argument for argument in argv])
    except SystemExit:  # absl ends with status 1 after --help.
        sys.exit(0)
    except flags.Error as error:
        missing = re.findall(r"Flag (--\w+) must have a value", str(error))
        if len(missing) > 1:
            _fail(f"Flags {', '.join(missing)} must have values (see --help)")
        _fail(f"{str(error).strip().splitlines()[-1].strip()} (see --help)")


def _fail(sentence: str, status: int = 1) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(status)

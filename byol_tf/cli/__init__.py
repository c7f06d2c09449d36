"""Command lines: thin absl mains. Flags are parsed before TensorFlow is imported, so `--help` answers at once."""

import sys
from collections.abc import Callable

from absl import app, logging

from byol_tf.errors import UserError


def run_main(main: Callable[[list[str]], None]) -> None:
    """Runs `main(argv)` under absl; a mistake the user can mend becomes one sentence and exit status 1."""

    def guarded(argv: list[str]) -> None:
        if len(argv) > 1:
            _fail(f"unexpected argument '{argv[1]}'; all options are flags, see --help.")
        try:
            main(argv)
        except UserError as error:
            _fail(str(error))
        except KeyboardInterrupt:
            _fail("interrupted; what was saved stays, and the same command continues a training run.", 130)

    logging.set_verbosity(logging.INFO)
    logging.use_absl_handler()
    app.run(guarded)


def _fail(sentence: str, status: int = 1) -> None:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(status)

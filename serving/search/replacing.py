"""Atomic file writes."""

import contextlib
import os
from collections.abc import Iterator

from serving.errors import UserError


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Yields a temporary path to write to, which replaces `path` at the end unless an error occurs.

    Raises:
        UserError: The file cannot be written.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"cannot write '{path}' ({error}); free some space or give another path."
        ) from error
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)

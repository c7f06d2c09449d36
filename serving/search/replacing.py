"""Files that appear under their name only when they are complete."""

import contextlib
import os
from collections.abc import Iterator

from serving.errors import UserError


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Yields a temporary name to write to, which takes the place of `path` at the end, or is removed.

    Raises:
        UserError: it cannot be written.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write '{path}' ({error}).") from error
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)

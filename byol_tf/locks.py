"""A lock on a folder, which the end of the process releases, also its kill."""

import contextlib
import fcntl
import os
from collections.abc import Iterator

from absl import logging

from byol_tf.errors import UserError


@contextlib.contextmanager
def exclusive(folder: str, refusal: str) -> Iterator[None]:
    """Holds the lock of `folder`, the file `.lock` in it (`flock`), while the body runs.

    The operating system keeps the lock, so nothing is left to clean up after a kill. On a network
    file system it holds between machines only if the mount passes flock on (NFS does unless mounted
    with `nolock` or `local_lock`; Lustre needs `-o flock`). Where there is no flock at all, the
    body runs without a lock, after a warning.

    Args:
        folder: Existing local folder.
        refusal: Sentence for the user if another process holds the lock.

    Raises:
        UserError: Another process holds the lock.
        OSError: The lock file cannot be opened.
    """
    with open(os.path.join(folder, ".lock"), "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(refusal) from error
        except OSError as error:
            logging.warning(
                "the file system of '%s' has no locks (%s); make sure that nothing else writes "
                "there.",
                folder,
                error.strerror,
            )
        yield

"""Folders of a large corpus's embeddings: `photos.parquet/part-00000.parquet` and so on.

A partition is never changed. Rows that changed go to a new one, which is complete before the old
one is removed.
"""

import os
import re
import uuid
from collections.abc import Iterable
from typing import Any

from serving.errors import UserError
from serving.search import embeddings

# More embeddings than this are partitioned, and their index is approximate. The exact index of a
# million embeddings of size 512 takes 2 GB and 0.2 s per query on two cores.
LARGE = 1_000_000
# Of a partition: 256 MB of embeddings of size 512.
ROWS = 1 << 17
_NAME = re.compile(r"part-(\d{5,})\.parquet")
_UNFINISHED = re.compile(rf"{_NAME.pattern}\.\d+\.tmp")  # See `replacing`.


def paths(folder: str) -> list[str]:
    """Returns the paths of a folder's partitions, the oldest first."""
    numbers = {
        int(match[1]): name for name in os.listdir(folder) if (match := _NAME.fullmatch(name))
    }
    return [os.path.join(folder, numbers[number]) for number in sorted(numbers)]


def remove_unfinished(folder: str) -> None:
    """Removes what a killed run left of a partition, which other programs would take for one."""
    for name in os.listdir(folder):
        if _UNFINISHED.fullmatch(name):
            os.remove(os.path.join(folder, name))


def write(folder: str, blocks: Iterable[embeddings.Embeddings], about: dict[str, Any]) -> str:
    """Writes a new partition; returns its path.

    Raises:
        UserError: It cannot be written.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder '{folder}' ({error}); give another path."
        ) from error
    existing = paths(folder)
    last = _NAME.fullmatch(os.path.basename(existing[-1])) if existing else None
    path = os.path.join(folder, f"part-{int(last[1]) + 1 if last else 0:05d}.parquet")
    # A number is used again if the last partition is removed: the name alone does not tell two.
    embeddings.write(path, blocks, 0, about | {"partition": uuid.uuid4().hex})
    return path

"""Embeddings that a run has finished, kept beside its output until that is written."""

import os
from typing import Any

import numpy as np

from serving.errors import UserError
from serving.search import embeddings


class Parts:
    """Finished embeddings of a run, in a folder beside its output; they survive a kill.

    Args:
        output: Output of the run; the folder is `OUTPUT.parts`.
        about: Origin of the embeddings, see `Embeddings`.

    Attributes:
        folder: Path of the folder.
        files: Paths of the files, the newest last.

    Raises:
        UserError: The folder cannot be made.
    """

    def __init__(self, output: str, about: dict[str, Any]):
        self.folder = f"{output}.parts"
        self._about = about
        try:
            os.makedirs(self.folder, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write beside '{output}' ({error}); give another --output."
            ) from error
        names = sorted(name for name in os.listdir(self.folder) if name.endswith(".parquet"))
        self.files = [os.path.join(self.folder, name) for name in names]
        # Above all that are there: of a run that was killed, the first may be gone already.
        numbers = (name.removesuffix(".parquet") for name in names)
        self._next = max((int(number) + 1 for number in numbers if number.isdecimal()), default=0)

    def add(self, keys: list[str], values: np.ndarray, stats: np.ndarray) -> str:
        """Saves more embeddings; returns the path of their file."""
        file = os.path.join(self.folder, f"{self._next:06d}.parquet")
        part = embeddings.Embeddings(keys, values, self._about, stats)
        embeddings.write(file, [part], len(keys), self._about)
        self.files.append(file)
        self._next += 1
        return file

    def adopt(self, path: str) -> str:
        """Moves a file of embeddings into the folder, as the oldest; returns its new path."""
        file = os.path.join(self.folder, "-old.parquet")  # Sorted before all numbers.
        os.rename(path, file)
        self.files.insert(0, file)
        return file

    def clear(self) -> None:
        """Deletes the files that were there or were added."""
        for file in self.files:
            os.remove(file)
        self.files.clear()

    def remove(self) -> None:
        """Deletes the embeddings and the folder."""
        for name in os.listdir(self.folder):
            os.remove(os.path.join(self.folder, name))
        os.rmdir(self.folder)

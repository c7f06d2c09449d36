"""Embeddings that a run has finished, kept beside its output until that is written."""

import os
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from serving.errors import UserError
from serving.search import embeddings
from serving.search.identity import check_same_model, check_same_root


class Parts:
    """Finished embeddings of a run, in a folder beside its output; they survive a kill.

    Args:
        output: Output of the run; the folder is `OUTPUT.parts`.
        about: Origin of the embeddings, see `Embeddings`.

    Attributes:
        stats: Size and modification time of each finished image, by key.

    Raises:
        UserError: The folder holds embeddings of another model, or keys that start from another
            folder, or cannot be made.
    """

    def __init__(self, output: str, about: dict[str, Any]):
        self._folder = f"{output}.parts"
        self._about = about
        try:
            os.makedirs(self._folder, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write beside '{output}' ({error}); give another --output."
            ) from error
        self._files = sorted(
            os.path.join(self._folder, name)
            for name in os.listdir(self._folder)
            if name.endswith(".parquet")
        )
        self.stats: dict[str, tuple[int, int]] = {}
        # The part that counts if an image was embedded again because its file changed.
        self._part: dict[str, int] = {}
        for number, file in enumerate(self._files):
            before = embeddings.read_keys(file)
            check_same_model(before.about, about, self._folder)
            check_same_root(before.about, about, before.keys, self._folder)
            self._note(number, before.keys, before.stats)

    def _note(self, number: int, keys: list[str], stats: np.ndarray) -> None:
        self.stats.update(zip(keys, map(tuple, stats.tolist()), strict=True))
        self._part.update(dict.fromkeys(keys, number))

    def add(self, keys: list[str], values: np.ndarray, stats: np.ndarray) -> None:
        """Saves more embeddings."""
        file = os.path.join(self._folder, f"{len(self._files):06d}.parquet")
        part = embeddings.Embeddings(keys, values, self._about, stats)
        embeddings.write(file, [part], len(keys), self._about)
        self._note(len(self._files), keys, stats)
        self._files.append(file)

    def without(self, dropped: Collection[str]) -> Iterator[embeddings.Embeddings]:
        """Yields the newest embedding of each image whose key is not among `dropped`."""
        for number, file in enumerate(self._files):
            part = embeddings.read(file)
            keep = [self._part[key] == number and key not in dropped for key in part.keys]
            yield from part.where(np.array(keep))

    def remove(self) -> None:
        """Deletes the embeddings and the folder."""
        for name in os.listdir(self._folder):
            os.remove(os.path.join(self._folder, name))
        os.rmdir(self._folder)

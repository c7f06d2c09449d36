"""The output of byol-embed: one file, or a folder of partitions if the corpus is large."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from serving.errors import UserError
from serving.search import embeddings, identity, partitions
from serving.search.catalogue import Catalogue
from serving.search.parts import Parts


class Store:
    """Existing embeddings of an output, those that earlier runs finished, and new ones.

    Args:
        output: Path of the file or folder.
        about: Origin of new embeddings, see `Embeddings`.
        images: Paths of the images of this run.

    Attributes:
        catalogue: Which file has the newest embedding of each image.
        first_part: Number of the first file that is not the output's but of a run that was killed.

    Raises:
        UserError: The existing embeddings are of another model, or their keys start from another
            folder, or the output cannot be written.
    """

    def __init__(self, output: str, about: dict[str, Any], images: list[str]):
        self._output, self._about = output, about
        self._is_folder = os.path.isdir(output)
        old = [output] if os.path.exists(output) else []
        if self._is_folder:
            partitions.remove_unfinished(output)
            old = partitions.paths(output)
            if not old and os.listdir(output):
                raise UserError(f"'{output}' is a folder of other files; give another --output.")
        self._parts = Parts(output, about)
        self.catalogue = Catalogue(os.path.join(self._parts.folder, "catalogue.sqlite"))
        self.first_part = len(old)
        self._files = [*old, *self._parts.files]
        self._rows: list[int] = []
        try:
            for number in range(len(self._files)):
                self._load(number, images)
        except UserError:
            self.close()
            raise

    def _load(self, number: int, images: list[str]) -> None:
        """Records a file's embeddings; raises `UserError` if new ones cannot be added to them."""
        path = self._files[number]
        found = embeddings.read_keys(path, with_digest=False)
        where = self._output if number < self.first_part else self._parts.folder
        identity.check_same_model(found.about, self._about, where)
        identity.check_same_root(found.about, self._about, [*found.keys, *images], where)
        size, new_size = found.values.shape[1], len(self._about["probe"])
        if size != new_size:
            raise UserError(
                f"'{where}' has embeddings of size {size}, and the model gives size {new_size}; "
                "give another --output."
            )
        self._rows.append(len(found.keys))
        self.catalogue.add(found.keys, found.stats, number)

    def expect(self, more: int) -> None:
        """Makes a folder of the output if it will be large, given the number of new images."""
        total = sum(self.catalogue.counts().values()) + more
        if self._is_folder or not self._output.endswith(".parquet") or total <= partitions.LARGE:
            return
        self._is_folder = True
        if os.path.exists(self._output):
            self._files[0] = self._parts.adopt(self._output)

    def add(self, keys: list[str], values: np.ndarray, stats: np.ndarray) -> None:
        """Saves more embeddings."""
        self._files.append(self._parts.add(keys, values, stats))
        self._rows.append(len(keys))
        self.catalogue.add(keys, stats, len(self._files) - 1)
        if self._is_folder:
            waiting = self._numbers(self._parts.files)
            if sum(self._rows[number] for number in waiting) >= partitions.ROWS:
                self._move_to_partitions(waiting)

    def finish(self) -> int:
        """Writes what is new; returns the number of embeddings, 0 if there are none."""
        counts = self.catalogue.counts()
        parts = self._numbers(self._parts.files)
        old = [number for number in range(len(self._files)) if self._exists(number, parts)]
        stale = [number for number in old if counts.get(number, 0) != self._rows[number]]
        if counts and self._is_folder:
            self._move_to_partitions([*self._small(old, stale, parts, counts), *stale, *parts])
        elif counts and (stale or parts):
            rows = self._newest([*old, *parts])
            embeddings.write(self._output, rows, sum(counts.values()), self._about)
        self._parts.clear()
        return sum(counts.values())

    def close(self) -> None:
        """Removes what is temporary; finished embeddings stay."""
        self.catalogue.close()
        if not self._parts.files:
            self._parts.remove()

    def _exists(self, number: int, parts: list[int]) -> bool:
        return bool(self._files[number]) and number not in parts

    def _numbers(self, files: list[str]) -> list[int]:
        wanted = set(files)
        return [number for number, file in enumerate(self._files) if file in wanted]

    def _small(
        self, old: list[int], stale: list[int], parts: list[int], counts: dict[int, int]
    ) -> list[int]:
        """Returns the last partition if what is new has room in it: small runs make no new ones."""
        new = sum(counts.get(number, 0) for number in [*stale, *parts])
        fits = new and old and old[-1] not in stale and self._rows[old[-1]] + new <= partitions.ROWS
        return [old[-1]] if fits else []

    def _move_to_partitions(self, numbers: list[int]) -> None:
        """Moves the newest embeddings of files to new partitions, and removes the files."""
        blocks: list[embeddings.Embeddings] = []
        for block in self._newest(numbers):
            blocks.append(block)
            if sum(len(found.keys) for found in blocks) >= partitions.ROWS:
                self._write_partition(blocks)
        if blocks:
            self._write_partition(blocks)
        parts = set(self._parts.files)
        for number in numbers:
            if self._files[number] not in parts:
                os.remove(self._files[number])
            self._files[number] = ""
        self._parts.clear()

    def _write_partition(self, blocks: list[embeddings.Embeddings]) -> None:
        number = len(self._files)
        self._files.append(partitions.write(self._output, blocks, self._about))
        self._rows.append(sum(len(block.keys) for block in blocks))
        for block in blocks:
            self.catalogue.move(block.keys, number)
        blocks.clear()

    def _newest(self, numbers: Iterable[int]) -> Iterator[embeddings.Embeddings]:
        for number in numbers:
            found = embeddings.read(self._files[number])
            yield from found.where(self.catalogue.newest(found.keys, number))

"""byol-embed: writes embeddings of images, by an endpoint or an exported encoder, to a file.

    byol-embed --address=localhost:8500 --output=photos.parquet photos/ 'more/*.jpg'
    byol-embed --saved_model=exported/byol/1 --output=photos.parquet --index photos/

A Parquet file has the columns key (the image's path) and embedding; a .npy file has its keys in
.keys.json beside it. For more than a million images, the Parquet output is a folder of such files.
If the command is interrupted, run it again to continue; run it later to embed only new and changed
files. Images that cannot be embedded are listed and left out.
"""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import TypeAlias

import numpy as np
from absl import flags
from tqdm import tqdm

from serving import command
from serving.client import EmbeddingClient, EmbeddingError
from serving.errors import UserError
from serving.search import embeddings, encoder_flags, file_formats, image_files
from serving.search.catalogue import Image, stat
from serving.search.store import Store

_FLAGS = flags.FLAGS
# Requests at the same time, so that reading files, the network and the model's work overlap.
_IN_FLIGHT = 4
_IMAGES_PER_PART = 1024
_MAX_NAMED = 10
# For each image its size and modification time, and its embedding or an error.
_Batch: TypeAlias = list[Image]
_Result: TypeAlias = tuple[tuple[int, int], np.ndarray | str]


def main(arguments: list[str]) -> None:
    """Runs the command; see `--help`."""
    if not arguments:
        raise UserError("there is nothing to embed; give folders, patterns or image files.")
    output = _FLAGS.output
    embeddings.check_name(output)
    images = image_files.find(arguments)
    encoder = encoder_flags.open_encoder()
    about = encoder.about | {"root": os.getcwd()}
    store = Store(output, about, images)
    try:
        expected = store.catalogue.wait_for(images, store.first_part)
        gone = store.catalogue.gone(images)
        store.expect(expected)
        done = _embed(encoder.client, store, expected)
        encoder.client.close()
        if _FLAGS.prune:
            store.catalogue.drop(gone)
        count = store.finish()
    finally:
        store.close()
    if not count:
        reason = f"; the first error: {done.errors[0]}" if done.errors else ""
        raise UserError(f"none of the {len(images)} images could be embedded{reason}.")
    told = ""
    if _FLAGS.index or os.path.exists(embeddings.index_path(output)):
        from serving.search import index  # Here, because it imports Faiss.

        told = index.update(output)
    _report(output, count, done, len(gone))
    if told:
        print(told)


@dataclasses.dataclass
class _Done:
    """Numbers of images embedded and failed in this run, and a line for the first that failed."""

    new: int = 0
    changed: int = 0
    failed: int = 0
    errors: list[str] = dataclasses.field(default_factory=list)


def _embed(client: EmbeddingClient, store: Store, expected: int) -> _Done:
    """Embeds the images that wait."""
    keys: list[str] = []
    rows: list[np.ndarray] = []
    stats: list[tuple[int, int]] = []
    done = _Done()

    def keep() -> None:
        if keys:
            store.add(keys.copy(), np.stack(rows), np.array(stats, np.int64))
            for finished in (keys, rows, stats):
                finished.clear()

    with (
        futures.ThreadPoolExecutor(_IN_FLIGHT) as pool,
        tqdm(total=expected, unit=" images") as progress,
    ):
        try:
            for batch, results in _in_order(
                pool, client, store.catalogue.waiting(_FLAGS.batch_size)
            ):
                for (key, file, changed), (stat, result) in zip(batch, results, strict=True):
                    if isinstance(result, np.ndarray):
                        keys.append(key)
                        rows.append(result)
                        stats.append(stat)
                        done.changed += changed
                        done.new += not changed
                    else:
                        store.catalogue.drop([key])
                        done.failed += 1
                        if len(done.errors) < _MAX_NAMED:
                            done.errors.append(f"{file}: {result}")
                progress.update(len(batch))
                if len(keys) >= _IMAGES_PER_PART:
                    keep()
        except EmbeddingError as error:
            raise UserError(
                f"{error} ({error.code}); finished embeddings are kept: run the same command again "
                "to continue."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
            keep()
    return done


def _in_order(
    pool: futures.Executor, client: EmbeddingClient, batches: Iterable[_Batch]
) -> Iterator[tuple[_Batch, list[_Result]]]:
    """Yields batches with their results, keeping a few requests in flight."""
    running: list[tuple[_Batch, futures.Future]] = []
    for batch in batches:
        running.append((batch, pool.submit(_embed_batch, client, batch)))
        if len(running) > _IN_FLIGHT:
            first, future = running.pop(0)
            yield first, future.result()
    for batch, future in running:
        yield batch, future.result()


def _embed_batch(client: EmbeddingClient, batch: _Batch) -> list[_Result]:
    contents: dict[str, bytes] = {}
    results: dict[str, _Result] = {}
    stats: dict[str, tuple[int, int]] = {}
    for key, file, _ in batch:
        stats[key] = stat(file)  # Before it is read: a change during that is seen the next time.
        try:
            contents[key] = file_formats.read(file)
        except (OSError, ValueError) as error:
            results[key] = stats[key], getattr(error, "strerror", None) or str(error)
    for key, result in zip(contents, client.embed_each(contents.values()), strict=True):
        if isinstance(result, EmbeddingError):
            results[key] = stats[key], str(result).splitlines()[0]
        elif not np.isfinite(result).all():
            results[key] = stats[key], "its embedding has NaN or infinity"
        else:
            results[key] = stats[key], result
    return [results[key] for key, _, _ in batch]


def _report(output: str, count: int, done: _Done, gone: int) -> None:
    again = f", {done.changed} of changed images" if done.changed else ""
    dropped = f", {gone} of deleted images dropped" if gone and _FLAGS.prune else ""
    print(f"{output}: {count} embeddings, {done.new} of them new{again}{dropped}.")
    if gone and not _FLAGS.prune:
        print(f"{gone} of its images do not exist any more; --prune drops them.")
    if done.failed:
        print(f"Left out, because they could not be embedded ({done.failed}):")
        for line in done.errors:
            print(f"  {line}")
        if done.failed > _MAX_NAMED:
            print(f"  and {done.failed - _MAX_NAMED} more.")


def run() -> None:
    """Defines the flags and runs the command (console entry point)."""
    flags.DEFINE_string(
        "output",
        None,
        "File to write, .parquet or .npy; of more than a million images, .parquet is a folder.",
        required=True,
    )
    flags.DEFINE_bool(
        "index", False, "Whether to write a search index for byol-neighbors beside the output."
    )
    flags.DEFINE_bool("prune", False, "Whether to drop the embeddings of images that were deleted.")
    encoder_flags.define()
    flags.adopt_module_key_flags(encoder_flags)
    command.run(main)


if __name__ == "__main__":
    run()

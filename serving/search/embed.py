"""byol-embed: writes embeddings of images, by an endpoint or an exported encoder, to one file.

    byol-embed --address=localhost:8500 --output=photos.parquet photos/ 'more/*.jpg'
    byol-embed --saved_model=exported/byol/1 --output=photos.parquet --index photos/

A Parquet file has the columns key (the image's path) and embedding; a .npy file has its keys in
.keys.json beside it. If the command is interrupted, run it again to continue; run it later to embed
only new and changed files. Images that cannot be embedded are listed and left out.
"""

import itertools
import os
from collections.abc import Collection, Iterable, Iterator
from concurrent import futures
from typing import Any, TypeAlias

import numpy as np
from absl import flags
from tqdm import tqdm

from serving import command
from serving.client import EmbeddingClient, EmbeddingError
from serving.errors import UserError
from serving.search import embeddings, encoder_flags, file_formats, identity, image_files
from serving.search.parts import Parts

_FLAGS = flags.FLAGS
# Requests at the same time, so that reading files, the network and the model's work overlap.
_IN_FLIGHT = 4
_IMAGES_PER_PART = 1024
_MAX_NAMED = 10
# Keys with their files; and for each its size and modification time, and its embedding or an error.
_Batch: TypeAlias = list[tuple[str, str]]
_Result: TypeAlias = tuple[tuple[int, int], np.ndarray | str]


def main(arguments: list[str]) -> None:
    """Runs the command; see `--help`."""
    if not arguments:
        raise UserError("there is nothing to embed; give folders, patterns or image files.")
    output = _FLAGS.output
    embeddings.check_name(output)
    files = {image_files.key(file): file for file in image_files.find(arguments)}
    encoder = encoder_flags.open_encoder()
    about = encoder.about | {"root": os.getcwd()}
    old = embeddings.read(output) if os.path.exists(output) else None
    if old:
        _check_continues(old, about, files, output)
    parts = Parts(output, about)
    before = dict(zip(old.keys, map(tuple, old.stats.tolist()), strict=True)) if old else {}
    known = before | parts.stats
    waiting = {key: file for key, file in files.items() if known.get(key) != _stat(file)}
    gone = {key for key in known if key not in files and not os.path.exists(key)}
    failed = _embed(encoder.client, waiting, parts)
    encoder.client.close()

    dropped = failed.keys() | (gone if _FLAGS.prune else set())
    replaced = dropped | parts.stats.keys()
    kept = [key not in replaced for key in old.keys] if old else []
    count = sum(kept) + len(parts.stats.keys() - dropped)
    if not count:
        parts.remove()
        reason = f"; the first error: {next(iter(failed.values()))}" if failed else ""
        raise UserError(f"none of the {len(files)} images could be embedded{reason}.")
    if len(parts.stats) or not all(kept):
        _write(output, old, kept, parts, dropped, count, about)
    parts.remove()
    if _FLAGS.index or os.path.exists(embeddings.index_path(output)):
        from serving.search import index  # Here, because it imports Faiss.

        index.update(output)
    done = waiting.keys() - failed.keys()
    _report(output, count, len(done - before.keys()), len(done & before.keys()), gone, failed)


def _stat(file: str) -> tuple[int, int]:
    """Returns size in bytes and modification time in ns, or (-2, -2) if the file is not there."""
    try:
        stat = os.stat(file)
    except OSError:
        return -2, -2
    return stat.st_size, stat.st_mtime_ns


def _check_continues(
    old: embeddings.Embeddings, about: dict[str, Any], files: Iterable[str], output: str
) -> None:
    """Raises `UserError` if embeddings cannot be added to existing ones."""
    identity.check_same_model(old.about, about, output)
    identity.check_same_root(old.about, about, [*old.keys, *files], output)
    size, new_size = old.values.shape[1], len(about["probe"])
    if size != new_size:
        raise UserError(
            f"'{output}' has embeddings of size {size}, and the model gives size {new_size}; give "
            "another --output."
        )


def _write(
    output: str,
    old: embeddings.Embeddings | None,
    kept: list[bool],
    parts: Parts,
    dropped: Collection[str],
    count: int,
    about: dict[str, Any],
) -> None:
    unchanged = old.where(np.array(kept)) if old else iter(())
    embeddings.write(output, itertools.chain(unchanged, parts.without(dropped)), count, about)


def _embed(client: EmbeddingClient, files: dict[str, str], parts: Parts) -> dict[str, str]:
    """Embeds files, by key, into parts; returns a line for each that could not be embedded."""
    size = _FLAGS.batch_size
    names = list(files.items())
    batches = [names[start : start + size] for start in range(0, len(names), size)]
    keys: list[str] = []
    rows: list[np.ndarray] = []
    stats: list[tuple[int, int]] = []
    failed: dict[str, str] = {}

    def keep() -> None:
        if keys:
            parts.add(keys.copy(), np.stack(rows), np.array(stats, np.int64))
            for finished in (keys, rows, stats):
                finished.clear()

    with (
        futures.ThreadPoolExecutor(_IN_FLIGHT) as pool,
        tqdm(total=len(files), unit=" images") as progress,
    ):
        try:
            for batch, results in _in_order(pool, client, batches):
                for (key, file), (stat, result) in zip(batch, results, strict=True):
                    if isinstance(result, np.ndarray):
                        keys.append(key)
                        rows.append(result)
                        stats.append(stat)
                    else:
                        failed[key] = f"{file}: {result}"
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
    return failed


def _in_order(
    pool: futures.Executor, client: EmbeddingClient, batches: list[_Batch]
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
    for key, file in batch:
        stats[key] = _stat(file)  # Before it is read: a change during that is seen the next time.
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
    return [results[key] for key, _ in batch]


def _report(
    output: str, count: int, new: int, changed: int, gone: set[str], failed: dict[str, str]
) -> None:
    again = f", {changed} of changed images" if changed else ""
    dropped = f", {len(gone)} of deleted images dropped" if gone and _FLAGS.prune else ""
    print(f"{output}: {count} embeddings, {new} of them new{again}{dropped}.")
    if gone and not _FLAGS.prune:
        print(f"{len(gone)} of its images do not exist any more; --prune drops them.")
    if failed:
        print(f"Left out, because they could not be embedded ({len(failed)}):")
        for line in list(failed.values())[:_MAX_NAMED]:
            print(f"  {line}")
        if len(failed) > _MAX_NAMED:
            print(f"  and {len(failed) - _MAX_NAMED} more.")


def run() -> None:
    """Defines the flags and runs the command (console entry point)."""
    flags.DEFINE_string("output", None, "File to write, .parquet or .npy.", required=True)
    flags.DEFINE_bool(
        "index", False, "Whether to write a search index for byol-neighbors beside the output."
    )
    flags.DEFINE_bool("prune", False, "Whether to drop the embeddings of images that were deleted.")
    encoder_flags.define()
    flags.adopt_module_key_flags(encoder_flags)
    command.run(main)


if __name__ == "__main__":
    run()

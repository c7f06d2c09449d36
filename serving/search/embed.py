"""byol-embed: writes embeddings of images, by an endpoint or an exported encoder, to one file.

    byol-embed --address=localhost:8500 --output=photos.parquet photos/ 'more/*.jpg'
    byol-embed --saved_model=exported/byol/1 --output=photos.parquet --index photos/

A Parquet file has the columns key (the image's path) and embedding; a .npy file has its keys in
.keys.json beside it. If the command is interrupted, run it again to continue; run it later to embed
only new files. Images that cannot be embedded are listed and left out.
"""

import os
from collections.abc import Iterator
from concurrent import futures

import numpy as np
from absl import flags
from tqdm import tqdm

from serving import command
from serving.client import EmbeddingClient, EmbeddingError
from serving.errors import UserError
from serving.search import embeddings, encoder_flags, file_formats, image_files

_FLAGS = flags.FLAGS
# Requests at the same time, so that reading files, the network and the model's work overlap.
_IN_FLIGHT = 4
_IMAGES_PER_PART = 1024
_MAX_NAMED = 10


def main(arguments: list[str]) -> None:
    """Runs the command; see `--help`."""
    if not arguments:
        raise UserError("there is nothing to embed; give folders, patterns or image files.")
    output = _FLAGS.output
    embeddings.check_name(output)
    files = image_files.find(arguments)
    encoder = encoder_flags.open_encoder()
    about = {"model": encoder.model, "root": os.getcwd()}
    old = None
    if os.path.exists(output):
        old = embeddings.read(output)
        embeddings.check_same_model(old.about, about, output)
    parts = embeddings.Parts(output, about)
    if old and parts.keys <= set(old.keys):
        parts.clear()  # A run ended between writing its output and removing its parts.
    done = parts.keys | set(old.keys if old else ())
    waiting = [file for file in files if image_files.key(file) not in done]
    failed = _embed(encoder.client, waiting, parts)
    encoder.client.close()

    count = len(parts.keys) + len(old.keys if old else ())
    if not count:
        parts.remove()
        raise UserError(
            f"none of the {len(files)} images could be embedded; the first error: {failed[0]}."
        )
    if parts.keys:
        embeddings.write(output, _joined(old, parts), count, about)
    parts.remove()
    if _FLAGS.index:
        from serving.search import index

        index.save(index.build(embeddings.read(output)), output)
    _report(output, count, len(waiting) - len(failed), failed)


def _joined(
    old: embeddings.Embeddings | None, parts: embeddings.Parts
) -> Iterator[embeddings.Embeddings]:
    if old:
        yield old
    yield from parts.all()


def _embed(client: EmbeddingClient, files: list[str], parts: embeddings.Parts) -> list[str]:
    """Embeds files in order into parts; returns one line per file that could not be embedded."""
    size = _FLAGS.batch_size
    batches = [files[start : start + size] for start in range(0, len(files), size)]
    keys: list[str] = []
    rows: list[np.ndarray] = []
    failed: list[str] = []

    def keep() -> None:
        if keys:
            parts.add(keys.copy(), np.stack(rows))
            keys.clear()
            rows.clear()

    with (
        futures.ThreadPoolExecutor(_IN_FLIGHT) as pool,
        tqdm(total=len(files), unit=" images") as progress,
    ):
        try:
            for batch, results in _in_order(pool, client, batches):
                for file, result in zip(batch, results, strict=True):
                    if isinstance(result, np.ndarray):
                        keys.append(image_files.key(file))
                        rows.append(result)
                    else:
                        failed.append(f"{file}: {str(result).splitlines()[0]}")
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
    pool: futures.Executor, client: EmbeddingClient, batches: list[list[str]]
) -> Iterator[tuple[list[str], list[np.ndarray | Exception]]]:
    """Yields batches with their results, keeping a few requests in flight."""
    running: list[tuple[list[str], futures.Future]] = []
    for batch in batches:
        running.append((batch, pool.submit(_embed_batch, client, batch)))
        if len(running) > _IN_FLIGHT:
            first, future = running.pop(0)
            yield first, future.result()
    for batch, future in running:
        yield batch, future.result()


def _embed_batch(client: EmbeddingClient, files: list[str]) -> list[np.ndarray | Exception]:
    contents: dict[int, bytes] = {}
    results: dict[int, np.ndarray | Exception] = {}
    for number, file in enumerate(files):
        try:
            contents[number] = file_formats.read(file)
        except (OSError, ValueError) as error:
            results[number] = error
    embedded = client.embed_each(contents.values())
    results.update(zip(contents, embedded, strict=True))
    return [results[number] for number in range(len(files))]


def _report(output: str, count: int, new: int, failed: list[str]) -> None:
    print(f"{output}: {count} embeddings, {new} of them new.")
    if failed:
        print(f"Left out, because they could not be embedded ({len(failed)}):")
        for line in failed[:_MAX_NAMED]:
            print(f"  {line}")
        if len(failed) > _MAX_NAMED:
            print(f"  and {len(failed) - _MAX_NAMED} more.")


def run() -> None:
    """Defines the flags and runs the command (console entry point)."""
    flags.DEFINE_string("output", None, "File to write, .parquet or .npy.", required=True)
    flags.DEFINE_bool(
        "index", False, "Whether to write a search index for byol-neighbors beside the output."
    )
    encoder_flags.define()
    flags.adopt_module_key_flags(encoder_flags)
    command.run(main)


if __name__ == "__main__":
    run()

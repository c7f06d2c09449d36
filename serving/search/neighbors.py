"""byol-neighbors: finds the images most similar to given ones; prints a list and writes a page.

    byol-neighbors --embeddings=photos.parquet --saved_model=exported/byol/1 \\
        --output=like.html query.jpg

A query is an image file, or the key of an image in the embeddings, which needs no model.
"""

import os
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from serving import command
from serving.client import EmbeddingError
from serving.errors import UserError
from serving.search import contact_sheet, embeddings, encoder_flags, file_formats, image_files

if TYPE_CHECKING:
    from serving.search.index import Index

_FLAGS = flags.FLAGS


def main(arguments: list[str]) -> None:
    """Runs the command; see `--help`."""
    if not arguments:
        raise UserError("there is no query; give image files, or keys of the embeddings.")
    from serving.search import index  # Here, so that --help does not import Faiss.

    embeddings.check_name(_FLAGS.embeddings)
    searched = index.open_or_build(_FLAGS.embeddings)
    rows = {key: row for row, key in enumerate(searched.keys)}
    queries = [rows.get(image_files.key(argument)) for argument in arguments]
    # One more than asked for: an image that is in the file is its own nearest neighbour.
    similarities, neighbours = searched.nearest(_values(searched, arguments, queries), _FLAGS.k + 1)
    sheet = []
    for argument, row, best, scores in zip(
        arguments, queries, neighbours, similarities, strict=True
    ):
        hits = [
            (searched.keys[hit], float(score))
            for hit, score in zip(best, scores, strict=True)
            if hit != row
        ]
        picture = os.path.abspath(argument) if os.path.exists(argument) else argument
        sheet.append(contact_sheet.Row(argument, picture, hits[: _FLAGS.k]))
        print(argument)
        for key, score in sheet[-1].hits:
            print(f"  {score:6.3f}  {key}")
    if _FLAGS.output:
        root = _FLAGS.images_dir or searched.about.get("root", "")
        contact_sheet.write(_FLAGS.output, sheet, root, len(searched.keys), _FLAGS.embeddings)
        print(f"The page is {_FLAGS.output}.")


def _values(searched: "Index", arguments: list[str], rows: list[int | None]) -> np.ndarray:
    """Returns the queries' embeddings `[Q, D]`: from the file if possible, else by the encoder."""
    unknown = [argument for argument, row in zip(arguments, rows, strict=True) if row is None]
    for argument in unknown:
        if not os.path.exists(argument):
            raise UserError(
                f"'{argument}' is neither a file nor a key of {_FLAGS.embeddings}; give an image "
                "file or one of the keys."
            )
    fresh = iter(_embed(searched, unknown) if unknown else ())
    return np.stack([next(fresh) if row is None else searched.unit(row) for row in rows])


def _embed(searched: "Index", files: list[str]) -> np.ndarray:
    encoder = encoder_flags.open_encoder()
    embeddings.check_same_model(searched.about, {"model": encoder.model}, _FLAGS.embeddings)
    try:
        values = encoder.client.embed(map(file_formats.read, files))
    except (EmbeddingError, OSError, ValueError) as error:
        raise UserError(f"cannot embed the query: {str(error).splitlines()[0]}") from error
    if values.shape[1] != searched.flat.d:
        raise UserError(
            f"the model gives embeddings of size {values.shape[1]}, but {_FLAGS.embeddings} has "
            f"size {searched.flat.d}; give the model that made them."
        )
    return values


def run() -> None:
    """Defines the flags and runs the command (console entry point)."""
    flags.DEFINE_string(
        "embeddings", None, "File that byol-embed wrote, .parquet or .npy.", required=True
    )
    flags.DEFINE_integer("k", 10, "Number of neighbours of each query.", lower_bound=1)
    flags.DEFINE_string("output", None, "HTML page to write; one file, thumbnails included.")
    flags.DEFINE_string(
        "images_dir",
        None,
        "Folder that keys start from; by default the folder in which byol-embed ran.",
    )
    encoder_flags.define()
    flags.adopt_module_key_flags(encoder_flags)
    command.run(main)


if __name__ == "__main__":
    run()

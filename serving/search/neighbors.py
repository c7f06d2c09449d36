"""byol-neighbors: the images most like a given one, as a list and as a page to look at.

    byol-neighbors --embeddings=photos.parquet --saved_model=exported/byol/1 --output=like.html query.jpg

A query is an image file, or the key of an image in the embeddings, for which no model is needed.
"""

import os

import numpy as np
from absl import flags

from serving import command
from serving.client import EmbeddingError
from serving.errors import UserError
from serving.search import contact_sheet, embeddings, encoder_flags, image_files

_FLAGS = flags.FLAGS


def main(arguments: list[str]) -> None:
    """Runs the command; see `--help`."""
    if not arguments:
        raise UserError("there is no query; give image files, or keys of the embeddings.")
    from serving.search import index  # Faiss is not for --help.

    embeddings.check_name(_FLAGS.embeddings)
    searched = index.open_or_build(_FLAGS.embeddings)
    rows = {key: row for row, key in enumerate(searched.keys)}
    queries = [rows.get(image_files.key(argument)) for argument in arguments]
    # One more than asked for: an image that is in the file is its own nearest.
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


def _values(searched, arguments: list[str], rows: list[int | None]) -> np.ndarray:
    """The embeddings of the queries [Q, D]: from the file where it has them, else from the encoder."""
    unknown = [argument for argument, row in zip(arguments, rows, strict=True) if row is None]
    for argument in unknown:
        if not os.path.exists(argument):
            raise UserError(f"'{argument}' is neither a file nor a key of {_FLAGS.embeddings}.")
    fresh = iter(_embed(searched, unknown) if unknown else ())
    return np.stack([next(fresh) if row is None else searched.unit(row) for row in rows])


def _embed(searched, files: list[str]) -> np.ndarray:
    encoder = encoder_flags.open_encoder()
    embeddings.check_same_model(searched.about, {"model": encoder.model}, _FLAGS.embeddings)
    try:
        values = encoder.client.embed(files)
    except EmbeddingError as error:
        raise UserError(f"cannot embed the query: {str(error).splitlines()[0]}") from error
    if values.shape[1] != searched.flat.d:
        raise UserError(
            f"the model gives embeddings of size {values.shape[1]}, {_FLAGS.embeddings} has size "
            f"{searched.flat.d}: give the model that made them."
        )
    return values


def run() -> None:
    """Console entry point."""
    flags.DEFINE_string("embeddings", None, "File of byol-embed: .parquet or .npy.", required=True)
    flags.DEFINE_integer("k", 10, "Neighbours of each query.", lower_bound=1)
    flags.DEFINE_string("output", None, "An HTML page to write, complete in one file.")
    flags.DEFINE_string(
        "images_dir",
        None,
        "Folder that keys start from; by default the one byol-embed was called in.",
    )
    encoder_flags.define()
    flags.adopt_module_key_flags(encoder_flags)
    command.run(main)


if __name__ == "__main__":
    run()

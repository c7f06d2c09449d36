"""byol-neighbors: finds the images most similar to given ones; prints a list and writes a page.

    byol-neighbors --embeddings=photos.parquet --saved_model=exported/byol/1 \\
        --output=like.html query.jpg

A query is an image file, or the key of an image in the embeddings, which needs no model.
`--duplicates` lists groups of near-duplicates among the embeddings instead:

    byol-neighbors --embeddings=photos.parquet --duplicates --images_dir=photos --output=twice.html
"""

import os
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from serving import command
from serving.client import EmbeddingError
from serving.errors import UserError
from serving.search import (
    contact_sheet,
    embeddings,
    encoder_flags,
    file_formats,
    identity,
    image_files,
)
from serving.search.pictures import Pictures

if TYPE_CHECKING:
    from serving.search.index import Index
    from serving.search.partitioned_index import PartitionedIndex

_FLAGS = flags.FLAGS
# Groups, and images of each besides the first, on a page of near-duplicates.
_MAX_GROUPS, _MAX_OTHERS = 200, 11


def main(arguments: list[str]) -> None:
    """Runs the command; see `--help`."""
    if _FLAGS.duplicates and arguments:
        raise UserError("--duplicates takes no query; leave the images out.")
    if not arguments and not _FLAGS.duplicates:
        raise UserError("there is no query; give image files, or keys of the embeddings.")
    from serving.search import index  # Here, so that --help does not import Faiss.

    embeddings.check_name(_FLAGS.embeddings)
    if _FLAGS.images_dir is not None and not os.path.isdir(_FLAGS.images_dir):
        raise UserError(f"--images_dir '{_FLAGS.images_dir}' is not a folder; correct the path.")
    searched = index.open_or_build(_FLAGS.embeddings)
    root = searched.about.get("root", "")
    pictures = Pictures(_FLAGS.images_dir, root, _FLAGS.output or "")
    if _FLAGS.duplicates:
        _show_duplicates(searched, pictures)
    else:
        _show_neighbours(searched, arguments, pictures)


def _show_neighbours(
    searched: "Index | PartitionedIndex", arguments: list[str], pictures: Pictures
) -> None:
    keys = [image_files.key(argument) for argument in arguments]
    rows = searched.rows(keys)
    queries = [rows.get(key) for key in keys]
    # One more than asked for: an image that is in the file is its own nearest neighbour.
    similarities, neighbours = searched.nearest(_values(searched, arguments, queries), _FLAGS.k + 1)
    sheet = []
    for argument, row, best, scores in zip(
        arguments, queries, neighbours, similarities, strict=True
    ):
        hits = [
            (searched.key(hit), float(score))
            for hit, score in zip(best.tolist(), scores, strict=True)
            if hit not in (row, -1)  # -1: an approximate search finds fewer.
        ][: _FLAGS.k]
        print(_printable(argument))
        for key, score in hits:
            print(f"  {score:6.3f}  {_printable(key)}")
        if _FLAGS.output:
            find = pictures.of_file if os.path.exists(argument) else pictures.of_key
            sheet.append(contact_sheet.Row(image_files.key(argument), find(argument), hits))
    print(f"Searched {len(searched):,} images of {_FLAGS.embeddings} {searched.how}.")
    if _FLAGS.output:
        note = (
            f"Cosine similarity of the embeddings, most similar first; searched {len(searched):,} "
            f"images of {_FLAGS.embeddings} {searched.how}."
        )
        _write_page(sheet, pictures, "Nearest images", [note])


def _show_duplicates(searched: "Index | PartitionedIndex", pictures: Pictures) -> None:
    from serving.search import duplicates
    from serving.search.index import Index

    if not isinstance(searched, Index):
        hours = duplicates.seconds(len(searched), searched.size) / 3600
        cost = f"{hours / 24:,.0f} days" if hours > 48 else f"{hours:.1f} hours"
        raise UserError(
            f"--duplicates compares all pairs of {len(searched):,} images, which would take about "
            f"{cost} of a processor core; embed fewer images to another file, such as one "
            "folder at a time."
        )
    groups = duplicates.find(searched, _FLAGS.threshold)
    for group in groups:
        print(f"{1 + len(group.others)} images")
        for key, score in [(group.key, 1.0), *group.others]:
            print(f"  {score:6.3f}  {_printable(key)}")
    total = len(groups) + sum(len(group.others) for group in groups)
    noun = "group" if len(groups) == 1 else "groups"
    note = (
        f"{len(groups):,} {noun} with {total:,} of the {len(searched.keys):,} images of "
        f"{_FLAGS.embeddings}: pairs with a cosine similarity of {_FLAGS.threshold:g} or more, "
        "joined."
    )
    print(note)
    if _FLAGS.output:
        notes = [note, "The first of each group is most similar to all; numbers compare with it."]
        if len(groups) > _MAX_GROUPS or any(len(group.others) > _MAX_OTHERS for group in groups):
            notes.append(
                f"This page shows at most {_MAX_GROUPS} groups and {1 + _MAX_OTHERS} images of "
                "each; the command lists all."
            )
        sheet = [
            contact_sheet.Row(
                group.key,
                pictures.of_key(group.key),
                group.others[:_MAX_OTHERS],
                f"{1 + len(group.others)} images",
            )
            for group in groups[:_MAX_GROUPS]
        ]
        _write_page(sheet, pictures, "Near-duplicates", notes)


def _write_page(
    sheet: list[contact_sheet.Row], pictures: Pictures, title: str, notes: list[str]
) -> None:
    if _FLAGS.images_dir is None:
        hint = f"Images of {_FLAGS.embeddings} are not shown: give --images_dir, their folder."
        notes = [*notes, hint]
        print(hint)
    contact_sheet.write(_FLAGS.output, sheet, pictures.of_key, title, notes)
    print(f"The page is {_FLAGS.output}.")


def _printable(key: str) -> str:
    """Returns the key; one that could control the terminal, such as by a line break, is escaped."""
    return key if key.isprintable() else key.encode("unicode_escape").decode()


def _values(
    searched: "Index | PartitionedIndex", arguments: list[str], rows: list[int | None]
) -> np.ndarray:
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


def _embed(searched: "Index | PartitionedIndex", files: list[str]) -> np.ndarray:
    encoder = encoder_flags.open_encoder()
    identity.check_same_model(searched.about, encoder.about, _FLAGS.embeddings)
    try:
        values = encoder.client.embed(map(file_formats.read, files))
    except (EmbeddingError, OSError, ValueError) as error:
        raise UserError(f"cannot embed the query: {str(error).splitlines()[0]}") from error
    if values.shape[1] != searched.size:
        raise UserError(
            f"the model gives embeddings of size {values.shape[1]}, but {_FLAGS.embeddings} has "
            f"size {searched.size}; give the model that made them."
        )
    if not np.isfinite(values).all():
        raise UserError("the model gives a query an embedding with NaN or infinity; retrain it.")
    return values


def run() -> None:
    """Defines the flags and runs the command (console entry point)."""
    flags.DEFINE_string(
        "embeddings",
        None,
        "File or folder that byol-embed wrote, .parquet or .npy.",
        required=True,
    )
    flags.DEFINE_integer("k", 10, "Number of neighbours of each query.", lower_bound=1)
    flags.DEFINE_bool(
        "duplicates", False, "Whether to find groups of near-duplicates instead; takes no query."
    )
    flags.DEFINE_float(
        "threshold",
        0.998,
        "Cosine similarity from which on two images are near-duplicates; lower finds more copies "
        "and more that are none.",
        lower_bound=0.0,
        upper_bound=1.0,
    )
    flags.DEFINE_string("output", None, "HTML page to write; one file, thumbnails included.")
    flags.DEFINE_string(
        "images_dir",
        None,
        "Folder of the images: the page shows those of the embeddings that lie below it. Keys "
        "start from it or from the folder in which byol-embed ran.",
    )
    encoder_flags.define()
    flags.adopt_module_key_flags(encoder_flags)
    command.run(main)


if __name__ == "__main__":
    run()

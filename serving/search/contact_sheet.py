"""The page of byol-neighbors: queries and their neighbours, in one HTML file with thumbnails."""

import base64
import dataclasses
import io
import os
import pathlib

import jinja2
from PIL import Image

from serving.search.replacing import replacing

# Pixels; thumbnails are shown at half this size, to be sharp on dense screens.
_THUMBNAIL = 320
_TEMPLATE = pathlib.Path(__file__).with_name("contact_sheet.html")


@dataclasses.dataclass(frozen=True)
class Row:
    """A query and the images most similar to it.

    Attributes:
        query: Query as the user gave it.
        picture: Path of its image.
        hits: Keys with their cosine similarities, the most similar first.
    """

    query: str
    picture: str
    hits: list[tuple[str, float]]


def write(path: str, rows: list[Row], root: str, searched: int, source: str) -> None:
    """Writes the page.

    Args:
        path: Path of the HTML file.
        rows: Queries with their neighbours.
        root: Folder that relative keys start from.
        searched: Number of images that were searched.
        source: File with their embeddings.

    Raises:
        UserError: The page cannot be written.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.globals["thumbnail"] = lambda key: _thumbnail(os.path.join(root, key))
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(rows=rows, searched=searched, source=source)
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(page)


def _thumbnail(path: str) -> str | None:
    """Returns the image as a data URI, or None if it cannot be read any more."""
    try:
        with Image.open(path) as opened:
            opened.draft("RGB", (_THUMBNAIL, _THUMBNAIL))  # Decodes a JPEG no larger than needed.
            image = opened.convert("RGB")
            image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    small = max(image.size) < _THUMBNAIL // 2
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if small else "JPEG", **({} if small else {"quality": 85}))
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"

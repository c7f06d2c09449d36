"""The page of byol-neighbors: rows of similar images, in one HTML file with thumbnails."""

import dataclasses
import pathlib
from collections.abc import Callable

import jinja2

from serving.search.pictures import Picture
from serving.search.replacing import replacing

_TEMPLATE = pathlib.Path(__file__).with_name("contact_sheet.html")


@dataclasses.dataclass(frozen=True)
class Row:
    """An image and those similar to it.

    Attributes:
        name: Name of the image: a query as the user gave it, or a key.
        picture: The image, or None if it is not shown.
        hits: Keys with their cosine similarities to it, the most similar first.
        label: What the page writes above the name.
    """

    name: str
    picture: Picture | None
    hits: list[tuple[str, float]]
    label: str = "query"


def write(
    path: str,
    rows: list[Row],
    of_key: Callable[[str], Picture | None],
    title: str,
    notes: list[str],
) -> None:
    """Writes the page.

    Args:
        path: Path of the HTML file.
        rows: Images with those similar to them.
        of_key: Returns the image of a key, or None if it is not to be shown.
        title: Title of the page.
        notes: Paragraphs below the title.

    Raises:
        UserError: The page cannot be written.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(rows=rows, of_key=of_key, title=title, notes=notes)
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(page)

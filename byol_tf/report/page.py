"""Rendering shared by all pages: one style sheet, macros and number formats."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jinja2

from byol_tf.report import formats

_TEMPLATES = pathlib.Path(__file__).parent


def render(template: pathlib.Path, **values: Any) -> str:
    """Returns a page as one self-contained HTML document.

    Args:
        template: Path of the page's template, which extends base.html and may use the macros of
            sections.html.
        values: Values that the template fills in; all text is escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, _TEMPLATES]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "percent": formats.percent,
        "number": formats.number,
        "magnitude": formats.magnitude,
        "duration": formats.duration,
        "date": formats.date,
    }
    document = environment.get_template(template.name).render(**values)
    # File names need not be UTF-8, but the page is.
    return document.encode("utf-8", "backslashreplace").decode()


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields (dotted name, value), as one would type them as flags."""
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)

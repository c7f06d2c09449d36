"""What pages share: one style sheet, macros, and numbers as people read them."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jinja2

from byol_tf.report import formats

_TEMPLATES = pathlib.Path(__file__).parent


def render(template: pathlib.Path, **values: Any) -> str:
    """A page as one HTML document that refers to nothing outside itself.

    Args:
        template: of this page; it extends base.html and may use the macros of sections.html.
        values: what it fills in; all text is escaped.
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
    return environment.get_template(template.name).render(**values)


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, value), as one would type them as flags."""
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)

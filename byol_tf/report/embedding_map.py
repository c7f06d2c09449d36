"""A map of embedded images that can be zoomed and lassoed, with thumbnails, drawn by Bokeh."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jinja2.utils
import matplotlib
import matplotlib.colors
import numpy as np
from markupsafe import Markup

from byol_tf.report import gallery
from byol_tf.report.charts import Key

_COLOR = "#5b8fd6"  # Of images without labels; readable on light and dark.
_LEGEND_CLASSES = 20
_THUMBNAIL = 64  # Pixels; hundreds of them are in the page.
_TOOLTIP = (
    '<img src="@image" alt="" style="width:96px;height:96px;object-fit:contain">'
    '<div style="max-width:180px;overflow-wrap:anywhere">@key</div><div>@class_name</div>'
)


@dataclasses.dataclass(frozen=True)
class EmbeddingMap:
    """A map of the page; if there is nothing to draw, `item` is None and `caption` says why.

    Attributes:
        item: The plot as JSON for `Bokeh.embed.embed_item`, safe inside a script element.
        library: Source of BokehJS, so that the page needs no network.
        caption: What the map shows.
        keys: Legend; empty without labels and for many classes.
    """

    item: Markup | None
    caption: str
    library: Markup = Markup()
    keys: Sequence[Key] = ()


def embedding_map(images: gallery.Gallery, which: str | None = None) -> EmbeddingMap:
    """Returns a map with one point per image, similar embeddings close to each other.

    Args:
        images: Images to draw.
        which: How the caption refers to them, with their number.
    """
    found = gallery.map_points(images)
    if found is None:
        return EmbeddingMap(
            None,
            "No map: it needs at least three images whose embeddings are finite and differ. If "
            "all embeddings are the same, the encoder has collapsed.",
        )
    taken, places = found
    few = len(places) < gallery.TSNE_POINTS
    caption = (
        f"{which or f'{len(places):,} images'}, placed by {'PCA' if few else 't-SNE'} of their "
        "embeddings. "
        + ("" if few else "Neighbourhoods are meaningful; distances between groups are not. ")
    )
    colors, names = [_COLOR] * len(taken), [""] * len(taken)
    keys: list[Key] = []
    if images.labels is None:
        caption += "Without labels all points look alike: look for separate groups."
    else:
        labels = np.asarray(images.labels)
        classes, of_class = np.unique(labels, return_inverse=True)
        palette = _class_colors(len(classes))
        class_names = [gallery.class_name(images, int(label)) for label in classes]
        colors = [palette[i] for i in of_class[taken]]
        names = [class_names[i] for i in of_class[taken]]
        if len(class_names) <= _LEGEND_CLASSES:
            keys = [Key(*pair) for pair in zip(class_names, palette, strict=True)]
        caption += f"Colour = class ({len(classes)} of them), which the encoder was never told."
    thumbnails = [gallery.thumbnail(images.images[i], _THUMBNAIL) for i in taken]
    columns = {
        "x": places[:, 0].round(3).tolist(),
        "y": places[:, 1].round(3).tolist(),
        "color": colors,
        "key": [images.keys[i] for i in taken],
        "class_name": names,
        "image": [thumbnail.source if thumbnail else "" for thumbnail in thumbnails],
    }
    return EmbeddingMap(jinja2.utils.htmlsafe_json_dumps(_item(columns)), caption, _library(), keys)


def _item(columns: dict[str, list]) -> dict[str, Any]:
    """Returns a scatter plot of the columns as JSON."""
    # Imported here because it takes a second, and a page without a map does not need it.
    from bokeh.embed import json_item
    from bokeh.models import ColumnDataSource, HoverTool, WheelZoomTool
    from bokeh.plotting import figure

    plot = figure(
        width=760,
        height=520,
        sizing_mode="scale_width",
        match_aspect=True,
        tools="pan,box_zoom,lasso_select,tap,reset",
        active_drag="lasso_select",
        toolbar_location="above",
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_alpha=0,
    )
    # Only with Ctrl, so that the page can be scrolled.
    plot.add_tools(WheelZoomTool(modifiers="ctrl"), HoverTool(tooltips=_TOOLTIP))
    plot.axis.visible = False
    plot.grid.visible = False
    plot.toolbar.logo = None
    plot.scatter(
        "x",
        "y",
        source=ColumnDataSource(columns, name="images"),
        color="color",
        size=8 if len(columns["x"]) <= 300 else 6,
        alpha=0.8,
        nonselection_alpha=0.15,
    )
    return _numbered(json_item(plot))


def _numbered(node: Any, ids: dict[str, str] | None = None) -> Any:
    """Returns Bokeh's JSON with ids by position: Bokeh counts on from one plot to the next."""
    ids = {} if ids is None else ids
    if isinstance(node, list):
        return [_numbered(value, ids) for value in node]
    if not isinstance(node, dict):
        return node
    return {
        name: ids.setdefault(value, f"p{len(ids)}")
        if name in ("id", "root_id") and isinstance(value, str) and re.fullmatch(r"p\d+", value)
        else _numbered(value, ids)
        for name, value in node.items()
    }


def _library() -> Markup:
    """Returns BokehJS without its widgets and tables: 1.3 MB."""
    from bokeh.resources import Resources

    return Markup(Resources(mode="inline", components=["bokeh"]).js_raw[0])


def _class_colors(count: int) -> list[str]:
    if count <= _LEGEND_CLASSES:
        colors = matplotlib.colormaps["tab10" if count <= 10 else "tab20"](np.arange(count))
    else:
        colors = matplotlib.colormaps["hsv"](np.linspace(0, 1, count, endpoint=False))
    return [matplotlib.colors.to_hex(color) for color in colors]

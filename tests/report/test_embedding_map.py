import dataclasses
import json
import re

import galleries
import pytest

from byol_tf.report import gallery
from byol_tf.report.embedding_map import embedding_map


@pytest.fixture(scope="module")
def images(images_dir) -> gallery.Gallery:
    return galleries.of_pixels(images_dir)


def first(images: gallery.Gallery, count: int) -> gallery.Gallery:
    return dataclasses.replace(
        images,
        embeddings=images.embeddings[:count],
        images=images.images[:count],
        keys=images.keys[:count],
        labels=images.labels[:count],
    )


def columns(item: str) -> dict[str, list]:
    """Returns the columns of the plot, as BokehJS would read them."""
    (found,) = re.findall(r'"entries": (\[\["x".*?\]\])\}', item)
    return dict(json.loads(found))


@pytest.mark.parametrize("count, method", [(30, "t-SNE"), (29, "PCA"), (3, "PCA")])
def test_the_map_has_every_image_with_its_thumbnail_and_a_legend(images, count, method):
    few = first(images, count)
    drawn = embedding_map(few)
    assert f"{count} images, placed by {method}" in drawn.caption
    shown = columns(drawn.item)
    assert shown["key"] == list(few.keys) and len(shown["x"]) == len(shown["y"]) == count
    assert shown["image"] == [gallery.thumbnail(image, 64).source for image in few.images]
    assert shown["class_name"] == [images.class_names[label] for label in few.labels]
    # Each class has the colour of its key.
    colors = {key.name: key.color for key in drawn.keys}
    assert list(colors) == images.class_names[: few.labels.max() + 1]
    assert len(set(colors.values())) == len(colors)
    assert shown["color"] == [colors[name] for name in shown["class_name"]]


def test_a_map_is_the_same_each_time_whatever_the_images_are_called(images):
    few = dataclasses.replace(first(images, 3), keys=["p1001", "</script>", "p1002"])
    once, again = embedding_map(few), embedding_map(few)
    assert once == again
    assert columns(once.item)["key"] == ["p1001", "</script>", "p1002"]
    assert "</" not in once.item


def test_an_unreadable_image_is_a_point_without_a_thumbnail(images):
    few = dataclasses.replace(first(images, 3), images=[b"?"] * 3, labels=None)
    drawn = embedding_map(few)
    assert columns(drawn.item)["image"] == [""] * 3 and not drawn.keys

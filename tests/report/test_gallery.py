import dataclasses
import io

import galleries
import numpy as np
import pytest
from PIL import Image

from byol_tf.images import bands
from byol_tf.report import gallery


@pytest.fixture(scope="module")
def images(images_dir) -> gallery.Gallery:
    return galleries.of_pixels(images_dir)


def part(images, positions):
    return dataclasses.replace(
        images,
        embeddings=images.embeddings[positions],
        images=[images.images[i] for i in positions],
        keys=[images.keys[i] for i in positions],
        labels=images.labels[positions],
    )


def by_cosine(candidates, query):
    """Returns rows of `candidates` and their cosines with `query`, nearest first."""
    x, q = candidates.astype(np.float64), query.astype(np.float64)
    cosines = [row @ q / np.sqrt((row @ row) * (q @ q)) for row in x]
    order = np.argsort(cosines)[::-1]
    return order, np.take(cosines, order)


def test_neighbours_are_those_of_brute_force(images):
    for query in (0, 7, 29):
        order, cosines = by_cosine(images.embeddings, images.embeddings[query])
        found = gallery.nearest(images.embeddings, images.embeddings[query], left_out=query)
        assert [i for i, _ in found] == [i for i in order if i != query][:8]
        np.testing.assert_allclose([s for _, s in found], cosines[order != query][:8], atol=1e-5)


def test_neighbours_in_another_set_are_its_own_and_none_is_left_out(images):
    queries, others = part(images, np.arange(0, 30, 6)), part(images, np.arange(29, 5, -1))
    rows = gallery.neighbour_rows(queries, others)
    assert [query.key for query, _ in rows] == queries.keys
    for (_, tiles), embedding in zip(rows, queries.embeddings, strict=True):
        order, _ = by_cosine(others.embeddings, embedding)
        assert [tile.key for tile in tiles] == [others.keys[i] for i in order[:8]]
    # Of the class's other images, the query itself among them, the nearest is the query itself.
    assert rows[1][1][0].key == queries.keys[1] and rows[1][1][0].similarity == pytest.approx(1)


def test_one_query_a_class_and_borders_by_class(images):
    rows = gallery.neighbour_rows(images)
    assert [query.class_name for query, _ in rows] == list(images.class_names)
    for query, tiles in rows:
        assert [t.same for t in tiles] == [t.key.split("/")[0] == query.class_name for t in tiles]
    unlabelled = dataclasses.replace(images, labels=None, class_names=None)
    rows = gallery.neighbour_rows(unlabelled)
    assert len(rows) == 8 and {tile.same for _, tiles in rows for tile in tiles} == {None}


def test_an_image_alone_has_neighbours_only_in_another_set(images):
    alone = part(images, [3])
    assert gallery.neighbours(alone) == []
    assert gallery.neighbours(alone, part(images, [4])) != []
    broken = dataclasses.replace(alone, embeddings=np.full_like(alone.embeddings, np.nan))
    assert gallery.neighbours(images, broken) == [] and gallery.neighbours(broken, images) == []


def test_pictures_are_needed_of_what_is_shown_only(images):
    found = gallery.neighbours(part(images, [0]), images)
    shown = {index: images.images[index] for _, near in found for index, _ in near}
    rows = gallery.neighbour_rows(part(images, [0]), dataclasses.replace(images, images=shown))
    assert len(shown) == 8 and all(tile.thumbnail for tile in rows[0][1])


def test_thumbnails_are_small_and_an_unreadable_image_is_none(images):
    def fake(size):
        file = io.BytesIO()
        Image.new("RGBA", size, "red").save(file, "PNG")
        return file.getvalue()

    assert gallery.thumbnail(images.images[0]).tiny
    assert len(gallery.thumbnail(fake((4000, 10))).source) < 2000
    assert not gallery.thumbnail(fake((640, 480))).tiny
    assert gallery.thumbnail(b"\xff\xd8 not an image") is None


@pytest.mark.parametrize("channels, dtype", [(1, np.uint16), (5, np.uint8), (13, np.uint16)])
def test_other_images_are_shown_by_their_first_bands_in_their_range(channels, dtype):
    ramp = np.linspace(0, 1, 64)
    planes = [ramp, ramp[::-1], np.zeros(64)] + [ramp] * 10
    pixels = np.stack([np.tile(plane, (64, 1)) for plane in planes[:channels]], axis=-1)
    # A twentieth of what the type holds, as sensors give.
    image = (100 + pixels * np.iinfo(dtype).max / 20).astype(dtype)
    thumbnail = gallery.thumbnail(bands.encode_png(image).numpy())
    assert thumbnail is not None
    shown = np.asarray(Image.open(io.BytesIO(gallery.reduced(bands.encode_png(image).numpy()))))
    expected = [ramp, ramp[::-1], np.zeros(64)] if channels > 1 else [ramp] * 3
    for channel, plane in enumerate(expected):
        assert np.abs(shown[32, :, channel] - 255 * plane).max() < 40

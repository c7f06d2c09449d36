import dataclasses

import galleries
import numpy as np
import pytest

from byol_tf.report import charts, gallery


@pytest.fixture(scope="module")
def images(images_dir) -> gallery.Gallery:
    return galleries.of_pixels(images_dir)


def test_only_a_history_with_tau_has_a_chart_of_it():
    row = {"epoch": 1, "step": 9, "loss": 1.0}
    titles = [
        [chart.title for chart in charts.learning_curves([one])]
        for one in (row, row | {"ema": 0.9})
    ]
    assert titles[1] == [*titles[0], "τ of the target network"]


def test_the_loss_has_the_caption_of_its_method():
    rows = [{"epoch": 1, "step": 9, "loss": 1.0}]
    assert charts.learning_curves(rows, "Low is good.")[0].caption == "Low is good."
    assert charts.learning_curves(rows)[0].caption == ""


def test_what_is_not_finite_is_left_out_and_said():
    values = (2.0, float("nan"), 1.5, float("inf"))
    rows = [{"epoch": e, "loss": value} for e, value in enumerate(values, start=1)]
    loss, spread, *_ = charts.learning_curves(rows)
    assert charts.curves(rows)[0].points(rows) == {"loss": [(1, 2.0), (3, 1.5)]}
    assert "Not finite in 2 epochs, first in epoch 2." in loss.caption
    assert loss.keys[0].value == "1.5" and loss.svg
    assert spread.svg is None and spread.caption.startswith("Not measured in this run: std")


def test_a_history_is_read_as_numbers_without_its_empty_cells():
    rows = [{"epoch": "1", "loss": "nan", "knn_accuracy": ""}]
    (row,) = charts.measurements(rows)
    assert row["epoch"] == 1 and np.isnan(row["loss"]) and "knn_accuracy" not in row


@pytest.mark.parametrize("count, method", [(30, "t-SNE"), (29, "PCA"), (3, "PCA")])
def test_the_map_has_every_image_and_a_legend(images, count, method):
    few = dataclasses.replace(
        images,
        embeddings=images.embeddings[:count],
        keys=images.keys[:count],
        labels=images.labels[:count],
    )
    _, places = gallery.map_points(few)
    assert places.shape == (count, 2) and np.isfinite(places).all()
    chart = charts.embedding_map(few)
    assert f"{count} images, placed by {method}" in chart.caption
    classes = images.class_names[: few.labels.max() + 1]
    assert [key.name for key in chart.keys] == classes
    # Each class has the colour of its key.
    assert len({key.color for key in chart.keys}) == len(classes)
    assert all(key.color in chart.svg for key in chart.keys)


def test_many_points_become_a_picture(images, monkeypatch):
    n = 1200
    embeddings = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    monkeypatch.setattr(gallery, "map_points", lambda _: (np.arange(n), embeddings))
    chart = charts.embedding_map(gallery.Gallery(embeddings, (), ["a"] * n))
    assert "data:image/png" in chart.svg and len(chart.svg) < 250_000

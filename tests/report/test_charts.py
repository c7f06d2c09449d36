import numpy as np

from byol_tf.report import charts


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

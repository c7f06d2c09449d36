import json
import os

import pytest

from byol_tf.errors import UserError
from byol_tf.evaluation.finetuner import Diverged
from byol_tf.evaluation.splits import Splits
from byol_tf.evaluation.sweep import best, sweep

POINTS = [{"rate": rate, "epochs": epochs} for rate in (0.1, 0.05) for epochs in (30, 50)]


class Scorer:
    """Scores rate · epochs / 10, records its calls, and fails at call number `fails_at`."""

    def __init__(self, fails_at=None):
        self.asked = []
        self.fails_at = fails_at

    def __call__(self, rate, epochs):
        self.asked.append((rate, epochs))
        if len(self.asked) == self.fails_at:
            raise KeyboardInterrupt
        return rate * epochs / 10


def splits(folder) -> Splits:
    return Splits("train", "test", output_dir=folder and str(folder))


def test_every_point_is_scored_in_order():
    scorer = Scorer()
    results = sweep(splits(None), "tuning", POINTS, scorer, {"seed": 0})
    assert scorer.asked == [(0.1, 30), (0.1, 50), (0.05, 30), (0.05, 50)]
    assert [result["accuracy"] for result in results] == pytest.approx([0.3, 0.5, 0.15, 0.25])
    assert results[1] == {"rate": 0.1, "epochs": 50, "accuracy": 0.5, "diverged": False}


def test_an_interrupted_sweep_continues_where_it_was(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        sweep(splits(tmp_path), "tuning", POINTS, Scorer(fails_at=3), {"seed": 0})
    scorer = Scorer()
    results = sweep(splits(tmp_path), "tuning", POINTS, scorer, {"seed": 0})
    assert scorer.asked == [(0.05, 30), (0.05, 50)]
    assert results == sweep(splits(None), "tuning", POINTS, Scorer(), {"seed": 0})


def test_a_larger_grid_scores_only_what_is_new(tmp_path):
    sweep(splits(tmp_path), "tuning", POINTS, Scorer(), {"seed": 0})
    scorer = Scorer()
    results = sweep(
        splits(tmp_path), "tuning", [{"rate": 0.2, "epochs": 30}, *POINTS], scorer, {"seed": 0}
    )
    assert scorer.asked == [(0.2, 30)] and len(results) == 5


def test_scores_of_other_images_or_encoders_are_not_taken(tmp_path):
    sweep(splits(tmp_path), "tuning", POINTS, Scorer(), {"seed": 0, "encoder": "a"})
    for about in ({"seed": 1, "encoder": "a"}, {"seed": 0, "encoder": "b"}):
        scorer = Scorer()
        sweep(splits(tmp_path), "tuning", POINTS, scorer, about)
        assert len(scorer.asked) == 4
    files = sorted(os.listdir(tmp_path))
    assert len(files) == 3 and all(file.startswith("tuning_") for file in files)
    record = json.loads((tmp_path / files[0]).read_text())
    assert record["about"].keys() == {"seed", "encoder"} and len(record["points"]) == 4


def test_a_point_that_diverges_is_told_and_never_chosen(tmp_path):
    def score(rate):
        if rate > 1:
            raise Diverged("too high")
        return 0.0

    points = [{"rate": 10.0}, {"rate": 0.1}]
    for _ in range(2):  # Also when read from the file.
        results = sweep(splits(tmp_path), "tuning", points, score, {})
        assert results[0] == {"rate": 10.0, "accuracy": 0.0, "diverged": True}
        assert best(results)["rate"] == 0.1
    with pytest.raises(UserError, match="diverged at all 1 points"):
        best(results[:1])


def test_of_equally_good_points_the_first_is_chosen():
    results = [
        {"rate": rate, "accuracy": accuracy, "diverged": False}
        for rate, accuracy in ((1, 0.2), (2, 0.5), (3, 0.5), (4, 0.1))
    ]
    assert best(results)["rate"] == 2

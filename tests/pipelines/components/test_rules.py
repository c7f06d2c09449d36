import math

import pytest

from pipelines.components.representation_check.rules import judge

BASELINE = {"spread": 0.8, "effective_rank": 20.0, "alignment": 0.4, "uniformity": -3.0}


def failed(candidate, baseline=BASELINE, min_spread=0.1, max_loss=0.25):
    return [
        (rule["name"], rule["bound"])
        for rule in judge(BASELINE | candidate, baseline, min_spread, max_loss)
        if not rule["passed"]
    ]


def test_an_equal_model_passes_and_so_does_the_first():
    assert failed({}) == []
    assert failed({}, baseline=None) == []


@pytest.mark.parametrize(
    ("name", "barely_passes", "fails"),
    [
        ("spread", 0.61, 0.59),  # 0.8 - 25 %
        ("effective_rank", 15.1, 14.9),  # 20 - 25 %
        ("alignment", 0.49, 0.51),  # 0.4 + 25 %, since less is better
        ("uniformity", -2.26, -2.24),  # -3 + 25 % of its absolute value
    ],
)
def test_a_measure_may_be_worse_by_max_loss_and_no_more(name, barely_passes, fails):
    assert failed({name: barely_passes}) == []
    assert [rule for rule, _ in failed({name: fails})] == [name]
    assert failed({name: fails}, baseline=None) == []


def test_better_is_never_a_failure():
    better = {"spread": 1.0, "effective_rank": 60.0, "alignment": 0.0, "uniformity": -4.0}
    assert failed(better, max_loss=0.0) == []


@pytest.mark.parametrize(
    ("collapsed", "failure"),
    [
        ({"spread": 0.09}, ("spread", 0.1)),
        ({"effective_rank": 1.9}, ("effective_rank", 2.0)),
        ({"spread": math.nan}, ("spread", 0.1)),
    ],
)
def test_a_collapse_fails_without_a_baseline_to_compare_with(collapsed, failure):
    assert failed(collapsed, baseline=None) == [failure]


def test_a_collapsed_baseline_lets_no_collapse_pass():
    collapsed = {"spread": 0.0, "effective_rank": 1.0}
    names = [name for name, _ in failed(collapsed, baseline=BASELINE | collapsed)]
    assert names == ["spread", "effective_rank"]


def test_the_explanation_has_the_numbers():
    rules = judge(BASELINE | {"alignment": 0.7}, BASELINE, 0.1, 0.25)
    (rule,) = (rule for rule in rules if not rule["passed"])
    assert rule["explanation"] == (
        "alignment is 0.700 and must be at most 0.500: "
        "no more than 25% worse than the last blessed model"
    )
    assert rule["baseline"] == 0.4 and rule["value"] == 0.7

import json
import math

import pytest

from pipelines.components.representation_check.rules import judge

BASELINE = {
    "representation_std": 0.8,
    "representation_rank": 20.0,
    "rotation_accuracy": 0.45,
    "rotation_interval": (0.43, 0.47),
    "num_images": 900,
}


def verdict(candidate=None, baseline=BASELINE, loss=(0.0, -0.02, 0.02), min_spread=0.1):
    """The rules by name, for a loss of rotation accuracy and its interval."""
    loss = dict(zip(("value", "low", "high"), loss, strict=True)) if baseline else None
    rules = judge(BASELINE | (candidate or {}), baseline, loss, min_spread, 0.01)
    json.dumps(rules)  # As they are stored.
    return {rule["name"]: rule for rule in rules}


def failed(*args, **kwargs):
    return [
        (rule["name"], rule["bound"])
        for rule in verdict(*args, **kwargs).values()
        if not rule["passed"]
    ]


def test_an_equal_model_passes_and_so_does_the_first():
    assert failed() == []
    assert failed(baseline=None) == []


@pytest.mark.parametrize(
    ("loss", "passes"),
    [
        ((-0.05, -0.07, -0.03), True),  # Better.
        ((0.03, 0.005, 0.055), True),  # Worse, but it may be chance.
        ((0.03, 0.015, 0.045), False),  # Even the low end is above the 0.01 allowed.
        ((0.005, 0.004, 0.006), True),  # Certainly worse, by less than is allowed.
        ((1.0, -1.0, 1.0), True),  # As bad as can be, on too few images.
    ],
)
def test_only_a_loss_beyond_chance_is_refused(loss, passes):
    expected = [] if passes else [("rotation_accuracy", pytest.approx(0.44))]
    assert failed({"rotation_accuracy": 0.45 - loss[0]}, loss=loss) == expected


@pytest.mark.parametrize(
    ("collapsed", "failure"),
    [
        ({"representation_std": 0.09}, ("representation_std", 0.1)),
        ({"representation_rank": 1.9}, ("representation_rank", 2.0)),
        ({"representation_std": math.nan}, ("representation_std", 0.1)),
    ],
)
def test_a_collapse_fails_with_and_without_a_baseline(collapsed, failure):
    assert failed(collapsed, baseline=None) == [failure]
    assert failed(collapsed, loss=(-0.2, -0.3, -0.1)) == [failure]


def test_a_collapsed_baseline_lets_no_collapse_pass():
    collapsed = {"representation_std": 0.0, "representation_rank": 1.0}
    names = [name for name, _ in failed(collapsed, baseline=BASELINE | collapsed)]
    assert names == ["representation_std", "representation_rank"]


def test_the_explanation_has_the_numbers():
    rule = verdict({"rotation_accuracy": 0.42}, loss=(0.03, 0.015, 0.045))["rotation_accuracy"]
    assert rule["explanation"] == (
        "rotation accuracy changed by -0.030 (95 % interval -0.045 to -0.015) from the last "
        "blessed model and may fall by 0.010: it fell by more than chance"
    )
    assert (rule["value"], rule["baseline"]) == (0.42, 0.45)
    low = verdict({"representation_std": 0.01}, baseline=None)["representation_std"]
    assert low["explanation"] == (
        "representation std is 0.010 and must be at least 0.100: not collapsed to a point"
    )


def test_it_says_what_the_images_cannot_show():
    few = verdict({"num_images": 17}, loss=(0.1, -1.0, 1.0))["rotation_accuracy"]
    assert few["passed"] and "17 images are too few to judge" in few["explanation"]
    some = verdict(loss=(0.0, -0.03, 0.03))["rotation_accuracy"]
    assert "no loss beyond chance; 900 images show one of 0.040 or more" in some["explanation"]
    at_chance = BASELINE | {"rotation_accuracy": 0.26, "rotation_interval": (0.24, 0.28)}
    turned = verdict(baseline=at_chance)["rotation_accuracy"]
    assert "does not tell how these images are turned" in turned["explanation"]
    sure = verdict(loss=(-0.05, -0.07, -0.03))["rotation_accuracy"]
    assert sure["explanation"].endswith(": no loss")

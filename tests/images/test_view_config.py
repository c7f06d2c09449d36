"""The numbers of the paper, and which numbers are refused."""

import pytest

from byol_tf.configs import defaults
from byol_tf.errors import UserError
from byol_tf.images.view_config import VIEW_1, VIEW_2, VIEW_SMALL, SmallCrops, ViewConfig


def test_views_have_the_numbers_of_the_paper():
    assert (VIEW_1.blur_prob, VIEW_1.solarize_prob) == (1.0, 0.0)
    assert (VIEW_2.blur_prob, VIEW_2.solarize_prob) == (0.1, 0.2)
    for view in (VIEW_1, VIEW_2):
        assert (view.crop_area, view.crop_aspect) == ((0.08, 1.0), (3 / 4, 4 / 3))
        assert (view.flip_prob, view.jitter_prob, view.grayscale_prob) == (0.5, 0.8, 0.2)
        assert (view.brightness, view.contrast, view.saturation, view.hue) == (0.4, 0.4, 0.2, 0.1)
        assert (view.blur_sigma, view.solarize_threshold) == ((0.1, 2.0), 0.5)


@pytest.mark.parametrize(
    "field, value",
    [
        ("flip_prob", 1.5),
        ("blur_prob", -0.1),
        ("hue", 0.6),
        ("crop_area", (0.0, 1.0)),
        ("crop_area", (0.5, 1.1)),
        ("crop_aspect", (2.0, 1.0)),
        ("blur_sigma", (0.0, 2.0)),
        ("solarize_threshold", float("nan")),
    ],
)
def test_wrong_numbers_are_refused_by_name(field, value):
    with pytest.raises(UserError, match=field):
        ViewConfig(**{field: value})


def test_a_config_has_no_small_crops_unless_it_asks_for_them():
    augment = defaults.get_config().augment
    assert SmallCrops.from_config(augment) is None
    assert SmallCrops.from_config({"run_on": "host"}) is None  # A run from before there were any.
    augment.small_crops = 6
    assert SmallCrops.from_config(augment) == SmallCrops(6, 96, VIEW_SMALL)


@pytest.mark.parametrize("field, value", [("small_crops", -1), ("small_crop_size", 0)])
def test_wrong_small_crops_are_refused_by_name(field, value):
    augment = defaults.get_config().augment
    augment.update({"small_crops": 2} | {field: value})
    with pytest.raises(UserError, match=f"augment.{field} is {value}"):
        SmallCrops.from_config(augment)

"""The numbers of the paper, and which numbers are refused."""

import pytest

from byol_tf.errors import UserError
from byol_tf.images.view_config import VIEW_1, VIEW_2, ViewConfig


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

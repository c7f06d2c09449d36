"""Both schedules against NumPy written from the formulas, at every step."""

import keras
import numpy as np
import pytest

from byol_tf.errors import UserError
from byol_tf.models import schedules


def numpy_warmup_cosine(k, base, warmup, total):
    if k < warmup:
        return base * k / warmup
    return base * 0.5 * (1 + np.cos(np.pi * (k - warmup) / (total - warmup)))


def test_learning_rate_follows_the_formula_at_every_step():
    base, warmup, total = 3.2, 10, 137
    schedule = schedules.WarmupCosine(base, warmup, total)
    expected = [numpy_warmup_cosine(k, base, warmup, total) for k in range(total + 1)]
    np.testing.assert_allclose(
        [schedule(k) for k in range(total + 1)], expected, rtol=1e-5, atol=1e-6
    )


def test_learning_rate_starts_at_zero_peaks_after_warmup_and_stays_zero_past_the_end():
    schedule = schedules.WarmupCosine(0.5, 10, 100)
    assert schedule(0) == 0
    assert schedule(10) == 0.5
    assert schedule(100) == schedule(1000) == 0


def test_learning_rate_without_warmup_starts_at_its_peak():
    assert schedules.WarmupCosine(0.5, 0, 100)(0) == 0.5


def test_tau_follows_the_formula_at_every_step():
    base, total = 0.996, 211
    steps = np.arange(total + 1)
    expected = 1 - (1 - base) * (np.cos(np.pi * steps / total) + 1) / 2
    actual = [schedules.cosine_ema(k, base, total) for k in steps]
    np.testing.assert_allclose(actual, expected, atol=1e-7)


def test_tau_rises_from_its_base_to_one_and_stays_there():
    assert schedules.cosine_ema(0, 0.99, 10) == np.float32(0.99)
    assert schedules.cosine_ema(10, 0.99, 10) == schedules.cosine_ema(99, 0.99, 10) == 1


def test_scale_lr_is_linear_in_the_batch_over_256():
    assert schedules.scale_lr(0.2, 4096) == pytest.approx(3.2)


def test_schedule_survives_serialization():
    schedule = schedules.WarmupCosine(0.5, 10, 100)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert copy(37) == schedule(37)


@pytest.mark.parametrize(
    "arguments, named",
    [
        ((0.1, 0, 0), "total_steps"),
        ((0.1, 11, 10), "warmup_steps"),
        ((0.1, -1, 10), "warmup_steps"),
        ((-0.1, 1, 10), "base_lr"),
        ((float("nan"), 1, 10), "base_lr"),
    ],
)
def test_bad_values_are_named(arguments, named):
    with pytest.raises(UserError, match=named):
        schedules.WarmupCosine(*arguments)

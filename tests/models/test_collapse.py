"""The measures against their formulas and limits."""

import numpy as np
import pytest

from byol_tf.models.collapse import effective_rank, spread


def test_spread_is_the_mean_std_of_unit_vectors_times_the_root_of_their_size():
    x = np.random.default_rng(0).normal(loc=0.5, size=(50, 9)) * 7
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert float(spread(x)) == pytest.approx(unit.std(axis=0).mean() * 3, rel=1e-5)


def test_effective_rank_of_a_line_is_one_and_of_even_directions_their_number():
    rng = np.random.default_rng(0)
    line = rng.normal(size=(100, 1)) * rng.normal(size=(1, 16)) + 5
    assert effective_rank(line) == pytest.approx(1, abs=1e-6)
    even = np.concatenate([np.eye(16), -np.eye(16)])
    assert effective_rank(even) == pytest.approx(16)


def test_effective_rank_is_the_entropy_of_the_singular_values():
    values = np.array([4.0, 2.0, 1.0])
    left, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(50, 4)) - 0)
    left = left - left.mean(0)
    left, _ = np.linalg.qr(left)  # Orthonormal columns of zero mean.
    shares = values / values.sum()
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert effective_rank(left[:, :3] * values) == pytest.approx(expected)


def test_constant_representations_have_rank_one():
    assert effective_rank(np.ones((10, 4))) == 1

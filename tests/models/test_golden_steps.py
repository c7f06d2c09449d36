"""Both Keras train the same steps to the same weights.

The golden vectors were written by Keras 2.15 on TensorFlow 2.15.1:
`python tests/support/golden_steps.py tests/golden/three-steps.npz`. The tolerance is float32's over
three steps, whose sums TensorFlow's threads and versions add in another order.
"""

import pathlib

import golden_steps
import numpy as np
import pytest

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "three-steps.npz"


@pytest.mark.parametrize("name", ["lars", "sgd"])
def test_three_steps_equal_those_of_keras_2(name):
    golden = np.load(GOLDEN)
    actual = golden_steps.train(name)
    assert {f"{name}/{key}" for key in actual} == {k for k in golden if k.startswith(name)}
    for key, value in actual.items():
        np.testing.assert_allclose(
            value, golden[f"{name}/{key}"], rtol=1e-4, atol=2e-5, err_msg=key
        )

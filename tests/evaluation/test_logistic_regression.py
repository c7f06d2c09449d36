import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax

from byol_tf.evaluation.logistic_regression import Examples, regularization_path

LAMBDAS = (100.0, 1.0, 0.05)


def clusters(count, num_classes, seed, dimensions=6, scale=0.04, offset=0.3):
    """Overlapping classes, with small values far from 0, like representations after a ReLU."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(num_classes, dimensions))
    labels = rng.integers(num_classes, size=count)
    x = centres[labels] + 1.5 * rng.normal(size=(count, dimensions))
    return Examples((offset + scale * x).astype(np.float32), labels)


def fit(examples, strength, max_iterations=5000):
    return next(regularization_path(examples, [strength], max_iterations))


def softmax_loss(kernel, bias, x, y, strength):
    """Returns the sum of cross-entropies plus lambda / 2 |W|^2, and its gradient."""
    log_p = log_softmax(x @ kernel + bias, axis=1)
    one_hot = np.eye(len(bias))[y]
    error = np.exp(log_p) - one_hot
    loss = -np.sum(one_hot * log_p) + strength / 2 * np.sum(kernel**2)
    return loss, x.T @ error + strength * kernel, error.sum(axis=0)


def binary_optimum(x, y, strength):
    """Returns scipy's minimum (w, b) of sum log(1 + exp(-+ score)) + lambda / 2 |w|^2."""
    sign = np.where(y, 1, -1)

    def loss(parameters):
        margins = sign * (x @ parameters[:-1] + parameters[-1])
        value = np.sum(np.logaddexp(0, -margins)) + strength / 2 * np.sum(parameters[:-1] ** 2)
        slope = -sign * np.exp(-np.logaddexp(0, margins))
        gradient = np.append(x.T @ slope + strength * parameters[:-1], slope.sum())
        return value, gradient

    start = np.zeros(x.shape[1] + 1)
    result = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-7})
    return result.x[:-1], result.x[-1]


@pytest.mark.parametrize("strength", LAMBDAS)
def test_the_gradient_of_the_formula_is_zero_at_the_solution(strength):
    examples = clusters(300, 4, seed=0)
    x, y = examples.representations.astype(np.float64), examples.targets
    regression = fit(examples, strength)
    assert regression.converged
    _, of_kernel, of_bias = softmax_loss(regression.kernel, regression.bias, x, y, strength)
    start = softmax_loss(np.zeros((6, 4)), np.zeros(4), x, y, strength)
    assert np.abs(of_kernel).max() < 2e-3 * np.abs(start[1]).max()
    assert np.abs(of_bias).max() < 2e-3 * np.abs(start[2]).max()
    # And not because the start was already optimal.
    assert np.abs(regression.scores(x) - regression.scores(x).mean(axis=0)).max() > 0.01


def test_the_solution_is_scipys():
    examples = clusters(300, 4, seed=0)
    x, y = examples.representations.astype(np.float64), examples.targets

    def loss(parameters):
        kernel, bias = parameters[:-4].reshape(6, 4), parameters[-4:]
        value, *gradients = softmax_loss(kernel, bias, x, y, 0.05)
        return value, np.concatenate([gradient.ravel() for gradient in gradients])

    optimum = minimize(loss, np.zeros(28), jac=True, method="BFGS", options={"gtol": 1e-6})
    scores = x @ optimum.x[:-4].reshape(6, 4) + optimum.x[-4:]
    regression = fit(examples, 0.05)
    probability = np.exp(log_softmax(regression.scores(x), axis=1))
    np.testing.assert_allclose(probability, np.exp(log_softmax(scores, axis=1)), atol=2e-3)
    assert probability.max() > 0.8, "the case must be able to tell right from wrong"


def test_points_far_down_the_path_are_solved_as_if_alone():
    """The start at the previous solution must not count as converged."""
    examples = clusters(300, 4, seed=0)
    lambdas = np.geomspace(1e5, 1e-3, 30)
    for strength, regression in zip(
        lambdas, regularization_path(examples, lambdas, 5000), strict=True
    ):
        scores = regression.scores(examples.representations)
        alone = fit(examples, strength).scores(examples.representations)
        difference = log_softmax(scores, axis=1) - log_softmax(alone, axis=1)
        assert np.abs(difference).max() < 0.02
    assert np.ptp(log_softmax(scores, axis=1)) > 2


@pytest.mark.parametrize(("factor", "offset"), [(1000, -70), (0.001, 5)])
def test_scale_and_origin_of_an_encoder_do_not_matter(factor, offset):
    """lambda penalises weights: for x / 1000 they are 1000 times as large and cost 1000^2 times."""
    examples = clusters(300, 4, seed=0)
    x = factor * examples.representations.astype(np.float64) + offset
    scores = fit(examples, 0.05).scores(examples.representations)
    of_moved = fit(Examples(x, examples.targets), 0.05 * factor**2).scores(x)
    probabilities = [np.exp(log_softmax(each, axis=1)) for each in (scores, of_moved)]
    np.testing.assert_allclose(*probabilities, atol=1e-3)
    assert probabilities[0].max() > 0.8


def test_two_classes_are_one_binary_regression():
    examples = clusters(200, 2, seed=1)
    x = examples.representations.astype(np.float64)
    kernel, bias = binary_optimum(x, examples.targets == 1, 0.3)
    regression = fit(examples, 0.3)
    scores = regression.scores(x)
    np.testing.assert_allclose(scores[:, 1] - scores[:, 0], x @ kernel + bias, atol=5e-3)
    np.testing.assert_array_equal(regression.predict(x), (x @ kernel + bias > 0).astype(int))


def test_several_classes_have_a_regression_each_without_what_is_unclear():
    examples = clusters(300, 3, seed=2)
    x = examples.representations.astype(np.float64)
    relevance = np.eye(3, dtype=np.int8)[examples.targets]
    relevance[:80, 0] = -1
    relevance[::3, 2] = 1  # Some have two classes.
    regression = fit(Examples(examples.representations, relevance), 0.3)
    for c in range(3):
        known = relevance[:, c] >= 0
        kernel, bias = binary_optimum(x[known], relevance[known, c] == 1, 0.3)
        np.testing.assert_allclose(regression.scores(x)[:, c], x @ kernel + bias, atol=5e-3)


def test_labels_may_leave_numbers_out():
    examples = clusters(300, 4, seed=0)
    renamed = Examples(examples.representations, np.array([1, 4, 5, 9])[examples.targets])
    predicted = fit(examples, 0.1).predict(examples.representations)
    expected = np.array([1, 4, 5, 9])[predicted]
    np.testing.assert_array_equal(fit(renamed, 0.1).predict(examples.representations), expected)
    assert (predicted == examples.targets).mean() > 0.5


@pytest.mark.parametrize("max_iterations", [2, 5000])
def test_running_out_of_iterations_is_said(max_iterations):
    path = regularization_path(clusters(300, 4, seed=0), LAMBDAS, max_iterations)
    assert [regression.converged for regression in path] == [max_iterations == 5000] * 3


def test_representations_that_are_all_the_same_give_the_most_frequent_class():
    examples = Examples(np.full((10, 3), 0.1, np.float32), np.array([2] * 6 + [0] * 3 + [1]))
    np.testing.assert_array_equal(fit(examples, 1e-6).predict(examples.representations), 2)

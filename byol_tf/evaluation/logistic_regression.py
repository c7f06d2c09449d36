"""L2-regularised logistic regression for many strengths of regularisation, by L-BFGS.

Minimises, over W and b,

    sum over the examples of cross-entropy(W x + b, label) + lambda / 2 * |W|^2
"""

import dataclasses
import math
import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from byol_tf.errors import UserError

try:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
except ImportError as error:
    raise UserError(
        'logistic regression needs scikit-learn; run pip install "byol_tf[evaluation]".'
    ) from error

# Of the largest element of the gradient of the mean loss, for features of mean square 1.
_TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Examples:
    """What a regression is fitted to.

    Attributes:
        representations: float32 `[N, D]`.
        targets: labels, int `[N]`; or where examples have several classes int `[N, C]`: 1 where
            the class is there, 0 where it is not, -1 where its regression leaves the example out.
    """

    representations: np.ndarray
    targets: np.ndarray

    def select(self, indices) -> "Examples":
        """The examples at `indices`: a slice, a mask, or positions."""
        return Examples(self.representations[indices], self.targets[indices])


@dataclasses.dataclass(frozen=True)
class Regression:
    """A fit.

    Attributes:
        kernel: float64 `[D, C]`, W transposed.
        bias: float64 `[C]`.
        classes: int `[C]`, the label of each column.
        converged: False where the solver met its limit of iterations, or could not go on.
    """

    kernel: np.ndarray
    bias: np.ndarray
    classes: np.ndarray
    converged: bool

    def scores(self, representations: np.ndarray) -> np.ndarray:
        """`[N, D]` → `[N, C]`."""
        return representations @ self.kernel + self.bias

    def predict(self, representations: np.ndarray) -> np.ndarray:
        """The label with the highest score: `[N, D]` → int `[N]`."""
        return self.classes[np.argmax(self.scores(representations), axis=1)]


def regularization_path(
    examples: Examples, lambdas: Sequence[float], max_iterations: int
) -> Iterator[Regression]:
    """Fits for each lambda, each started where the one before ended.

    Labels have one softmax regression; of two classes it is binary, whose lambda does what 2 lambda
    does to weights for both. Examples with several classes have a binary one for each class.

    Representations are not standardised. They are centred and divided by one number s, with
    lambda / s^2 in place of lambda: the optimum is the same, for b is not regularised. Only then
    does a tolerance mean the same for every encoder. On representations of 0.04, as a random
    ResNet-18 gives, scikit-learn by itself takes no further step from lambda = 0.1 on: within its
    tolerance, and far from the optimum.

    Takes 8 N D bytes: in float32 rounding stops the loss's fall, which looks like convergence.

    Args:
        examples: of at least two classes; where they have several, of each class at least one with
            it and one without.
        lambdas: above 0, from strong to weak.
        max_iterations: of L-BFGS, for each lambda.
    """
    x = examples.representations.astype(np.float64)
    mean = x.mean(axis=0)
    x -= mean
    scale = math.sqrt(np.mean(np.square(x))) or 1.0  # 0 of an encoder that collapsed.
    x /= scale
    if examples.targets.ndim == 1:
        columns = [(examples.targets, None)]
    else:
        columns = [(column == 1, (column >= 0).astype(float)) for column in examples.targets.T]
    models = [
        LogisticRegression(tol=_TOLERANCE, max_iter=max_iterations, warm_start=True)
        for _ in columns
    ]
    for strength in lambdas:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for model, (y, weights) in zip(models, columns, strict=True):
                model.set_params(C=scale**2 / strength).fit(x, y, weights)
        kernel = np.concatenate([model.coef_ for model in models]).T / scale
        bias = np.concatenate([model.intercept_ for model in models]) - mean @ kernel
        if examples.targets.ndim == 2:
            classes = np.arange(len(models))
        else:
            classes = models[0].classes_
            if len(classes) == 2:  # The one column is of the second class.
                kernel, bias = np.pad(kernel, ((0, 0), (1, 0))), np.pad(bias, (1, 0))
        converged = not any(issubclass(entry.category, ConvergenceWarning) for entry in caught)
        yield Regression(kernel, bias, classes, converged)

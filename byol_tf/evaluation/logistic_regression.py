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

# Bounds the largest element of the gradient of the mean loss, for features of mean square 1.
_TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Examples:
    """Representations and targets of a regression.

    Attributes:
        representations: Representations, float32 `[N, D]`.
        targets: Labels, int `[N]`; or int `[N, C]` where examples have several classes: 1 where the
            class is present, 0 where it is absent, -1 where its regression ignores the example.
    """

    representations: np.ndarray
    targets: np.ndarray

    def select(self, indices: np.ndarray | slice | Sequence[int]) -> "Examples":
        """Returns the examples at `indices`: a slice, a mask, or positions."""
        return Examples(self.representations[indices], self.targets[indices])


@dataclasses.dataclass(frozen=True)
class Regression:
    """A fitted logistic regression.

    Attributes:
        kernel: Weights, float64 `[D, C]`; W transposed.
        bias: Biases, float64 `[C]`.
        classes: Label of each column, int `[C]`.
        converged: False if the solver reached its iteration limit or could make no progress.
    """

    kernel: np.ndarray
    bias: np.ndarray
    classes: np.ndarray
    converged: bool

    def scores(self, representations: np.ndarray) -> np.ndarray:
        """Returns the score of each class: `[N, D]` -> `[N, C]`."""
        return representations @ self.kernel + self.bias

    def predict(self, representations: np.ndarray) -> np.ndarray:
        """Returns the labels with the highest scores: `[N, D]` -> int `[N]`."""
        return self.classes[np.argmax(self.scores(representations), axis=1)]


def regularization_path(
    examples: Examples, lambdas: Sequence[float], max_iterations: int
) -> Iterator[Regression]:
    """Yields a regression for each lambda, each fit starting from the previous one.

    With one label per example this is a softmax regression; with two classes it is binary, where
    lambda acts like 2 lambda on separate weights for both classes. With several classes per example
    there is one binary regression per class.

    Representations are not standardised. They are centred and divided by one number s, and lambda
    by s^2: the optimum stays the same, because b is not regularised, and the tolerance means the
    same for every encoder. Without this, on the representations of about 0.04 that a random
    ResNet-18 gives, scikit-learn makes no step below lambda = 0.1: it is within its tolerance, but
    far from the optimum.

    Takes 8 N D bytes: in float32, rounding stops the decrease of the loss, which looks like
    convergence.

    Args:
        examples: Examples of at least two classes; with several classes per example, at least one
            with and one without each class.
        lambdas: Regularisation strengths above 0, from strong to weak.
        max_iterations: Iteration limit of L-BFGS for each lambda.
    """
    x = examples.representations.astype(np.float64)
    mean = x.mean(axis=0)
    x -= mean
    scale = math.sqrt(np.mean(np.square(x))) or 1.0  # 0 after a collapse.
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
            if len(classes) == 2:  # The only column belongs to the second class.
                kernel, bias = np.pad(kernel, ((0, 0), (1, 0))), np.pad(bias, (1, 0))
        converged = not any(issubclass(entry.category, ConvergenceWarning) for entry in caught)
        yield Regression(kernel, bias, classes, converged)

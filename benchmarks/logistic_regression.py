"""Times transfer's sweep of 45 regularisation strengths, with and without its optimizations.

    python benchmarks/logistic_regression.py --images=DIR    one subfolder per class, as CIFAR-10

10,000 images encoded by a random ResNet-18 (512 dimensions), and 1,000 more to choose lambda on.
  path    `regularization_path`: centred, one scale, each lambda starting from the previous one
  cold    the same, each lambda starting from zero
  plain   scikit-learn's LogisticRegression with warm starts and its own tolerance, on unscaled
          representations

They take turns, `path` first in every other round. `distinct` counts the regressions of the 45 that
differ in some validation prediction: a sweep that makes no progress has fewer.

Target: path within 5 minutes on two cores. Predicted before the first run: cold / path = 1.7,
because the weak lambdas reach the iteration limit either way; plain is faster, because it makes no
progress.
"""

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import recording

VALIDATION = 1_000
MAX_ITERATIONS = 1_000


def representations(folder: str, examples: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns (x, labels) of a random ResNet-18, for training and for validation."""
    import keras

    from byol_tf.data import evaluation_dataset
    from byol_tf.evaluation import features
    from byol_tf.images.preprocessing import Preprocessing
    from byol_tf.models import networks

    keras.utils.set_random_seed(0)
    encoder = networks.resnet(18, 1.0, 32, "small")
    images = evaluation_dataset(folder, Preprocessing(32), 256, limit=examples + VALIDATION)
    everything = features.extract(encoder, images)
    order = np.random.default_rng(0).permutation(len(everything.labels))
    return [
        (everything.representations[rows], everything.labels[rows])
        for rows in (order[:examples], order[examples:])
    ]


def path(
    x: np.ndarray, y: np.ndarray, points: np.ndarray, lambdas: Sequence[float]
) -> Iterator[tuple[np.ndarray, bool]]:
    from byol_tf.evaluation.logistic_regression import Examples, regularization_path

    for regression in regularization_path(Examples(x, y), lambdas, MAX_ITERATIONS):
        yield regression.predict(points), regression.converged


def cold(
    x: np.ndarray, y: np.ndarray, points: np.ndarray, lambdas: Sequence[float]
) -> Iterator[tuple[np.ndarray, bool]]:
    for strength in lambdas:
        yield from path(x, y, points, [strength])


def plain(
    x: np.ndarray, y: np.ndarray, points: np.ndarray, lambdas: Sequence[float]
) -> Iterator[tuple[np.ndarray, bool]]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True)
    x = x.astype(np.float64)
    for strength in lambdas:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            model.set_params(C=1 / strength).fit(x, y)
        yield model.predict(points), not caught


def measure(
    rival: Callable[..., Iterator[tuple[np.ndarray, bool]]],
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    lambdas: Sequence[float],
) -> dict[str, Any]:
    """Returns time, convergence and accuracy of one run of a rival."""
    start, cpu = time.perf_counter(), time.process_time()
    predictions, converged = zip(*rival(*train, validation[0], lambdas), strict=True)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    accuracy = [float((predicted == validation[1]).mean()) for predicted in predictions]
    best = int(np.argmax(accuracy))
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "not_converged": converged.count(False),
        "distinct": len({predicted.tobytes() for predicted in predictions}),
        "chosen_lambda": lambdas[best],
        "validation_accuracy": accuracy[best],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True)
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--note", default="", help="note for the record, such as what else ran")
    args = parser.parse_args()

    context = recording.context("scikit-learn", "scipy", "numpy")
    train, validation = representations(args.images, args.examples)
    lambdas = np.geomspace(1e5, 1e-6, 45).tolist()
    rivals = {"path": path, "cold": cold, "plain": plain}
    results = {name: [] for name in rivals}
    for number in range(args.rounds):
        for name in list(rivals)[:: -1 if number % 2 else 1]:
            results[name].append(measure(rivals[name], train, validation, lambdas))

    print(f"45 lambdas, {train[0].shape}, {context['cpu']}, load before {context['load']}")
    columns = ("seconds", "cpu_seconds", "not_converged", "distinct", "validation_accuracy")
    print(f"{'rival':6}", *(f"{column:>20}" for column in (*columns, "chosen_lambda")))
    for name, runs in results.items():
        cells = [f"{statistics.median(run[column] for run in runs):20.3f}" for column in columns]
        print(f"{name:6}", *cells, f"{runs[0]['chosen_lambda']:20.1e}")
    pairs = list(zip(results["cold"], results["path"], strict=True))
    ratios = {
        f"cold / path, {unit}": [round(cold[unit] / path[unit], 3) for cold, path in pairs]
        for unit in ("seconds", "cpu_seconds")
    }
    for name, values in ratios.items():
        print(f"{name}: {values}")
    about = {"shape": train[0].shape, "note": args.note, "results": results, "ratios": ratios}
    print(f"recorded in {recording.append('logistic_regression', context | about).name}")


if __name__ == "__main__":
    main()

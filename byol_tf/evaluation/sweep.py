"""A grid of hyperparameters, each scored on held-out images; an interrupted sweep resumes."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
from absl import logging

from byol_tf.errors import UserError
from byol_tf.evaluation.finetuner import Diverged
from byol_tf.evaluation.splits import Splits
from byol_tf.files import write_atomically

Point = dict[str, Any]  # Hyperparameters by name; in results also `accuracy` and `diverged`.


def sweep(
    splits: Splits,
    protocol: str,
    points: Sequence[Point],
    score: Callable[..., float],
    about: Mapping[str, Any],
) -> list[Point]:
    """Scores each point, or reads its score if an earlier call has stored it.

    Scores are stored in `splits.output_dir`, if any, as `{protocol}_{digest of about}.json`.

    Args:
        splits: Splits whose `output_dir` holds the file.
        protocol: Name of the protocol, with which the file name starts.
        points: Hyperparameters by name.
        score: Function that takes a point as keyword arguments and returns an accuracy in [0, 1],
            or raises `Diverged`.
        about: Everything else that decides the scores, as JSON: encoder, images, seed, fixed
            settings.

    Returns:
        The points with `accuracy` and `diverged`; the accuracy is 0 where training diverged.
    """
    text = json.dumps(about, sort_keys=True)
    path = splits.output_path(f"{protocol}_{hashlib.sha256(text.encode()).hexdigest()[:16]}.json")
    done: list[Point] = []
    if path and tf.io.gfile.exists(path):
        with tf.io.gfile.GFile(path) as file:
            done = json.load(file)["points"]
        logging.info("%s: %d points are already in %s", protocol, len(done), path)
    results = []
    for number, point in enumerate(points, start=1):
        result = next((old for old in done if old | point == old), None)
        if result is None:
            result = point | _scored(score, point)
            done.append(result)
            if path:
                write_atomically(
                    path, json.dumps({"about": about, "points": done}, indent=2) + "\n"
                )
        logging.info("%s: %d of %d points: %s", protocol, number, len(points), result)
        results.append(result)
    return results


def best(results: Sequence[Point]) -> Point:
    """Returns the point with the highest accuracy; ties go to the first.

    Raises:
        UserError: Training diverged at all points.
    """
    finite = [result for result in results if not result["diverged"]]
    if not finite:
        raise UserError(
            f"fine-tuning diverged at all {len(results)} points of the sweep; give lower learning "
            "rates, or another checkpoint."
        )
    return max(finite, key=lambda result: result["accuracy"])


def _scored(score: Callable[..., float], point: Point) -> Point:
    try:
        return {"accuracy": score(**point), "diverged": False}
    except Diverged as error:
        logging.warning("%s", error)
        return {"accuracy": 0.0, "diverged": True}

"""A grid of hyperparameters, each scored on held-out images; an interrupted sweep continues."""

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

Point = dict[str, float]


def sweep(
    task: Splits,
    protocol: str,
    points: Sequence[Point],
    score: Callable[..., float],
    about: Mapping[str, Any],
) -> list[Point]:
    """Scores each point, or reads its score where an earlier call got so far.

    What is done is kept in `{protocol}_{digest of about}.json` of the task's folder, if it has one.

    Args:
        task: whose folder.
        protocol: name of the file.
        points: hyperparameters by name.
        score: of the hyperparameters, as keyword arguments: accuracy in [0, 1], or `Diverged`.
        about: all else that decides the scores, JSON: encoder, images, seed, fixed settings.

    Returns:
        The points, each with its `accuracy`: 0 where it diverged, and then `diverged` is True.
    """
    text = json.dumps(about, sort_keys=True)
    path = task.output_path(f"{protocol}_{hashlib.sha256(text.encode()).hexdigest()[:16]}.json")
    done = []
    if path and tf.io.gfile.exists(path):
        with tf.io.gfile.GFile(path) as file:
            done = json.load(file)["points"]
        logging.info("%s: %d points were done before, in %s", protocol, len(done), path)
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
    """The point with the highest accuracy, of equals the first.

    Raises:
        UserError: all diverged.
    """
    finite = [result for result in results if not result["diverged"]]
    if not finite:
        raise UserError(
            f"fine-tuning diverged at all {len(results)} points of the sweep; give lower learning "
            "rates, or another checkpoint."
        )
    return max(finite, key=lambda result: result["accuracy"])


def _scored(score, point) -> dict[str, float | bool]:
    try:
        return {"accuracy": score(**point), "diverged": False}
    except Diverged as error:
        logging.warning("%s", error)
        return {"accuracy": 0.0, "diverged": True}

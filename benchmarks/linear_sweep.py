"""Times the five learning rates of linear evaluation in one program and one by one.

    python benchmarks/linear_sweep.py

`one` calls `train_classifiers` with the paper's five learning rates, `five` calls it five times
with one of them: 10,000 examples, 10 classes, 80 epochs, batches of 1,024, with 512 dimensions
(ResNet-18) and 2,048 (ResNet-50). Both give the same classifiers up to `difference`, the largest
difference of weights. The representations are rectified clusters; their values do not affect the
time.

The two take turns, and each is first in every other round. Tracing is not timed.

Predicted before the first run: five / one = 3. Shared are gathering the batch and reading it for
two thin products, whose 10 columns leave a core waiting for memory where 50 do not; softmax and
updates are not shared. At 2,048 dimensions the products matter more, so 3.5 there.
"""

import argparse
import os
import statistics
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import recording

EXAMPLES = 10_000
CLASSES = 10
DIMENSIONS = (512, 2048)


def representations(dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns representations float32 `[N, D]` and labels int32 `[N]`."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLASSES, dimensions))
    labels = rng.integers(CLASSES, size=EXAMPLES)
    noise = rng.normal(size=(EXAMPLES, dimensions))
    x = np.maximum(0.2 * centres[labels] + noise, 0)
    return x.astype(np.float32), labels.astype(np.int32)


def measure(dimensions: int, epochs: int, rounds: int) -> dict[str, Any]:
    """Returns seconds of each round by rival, and the ratio of each round."""
    from byol_tf.evaluation.classifiers import train_classifiers
    from byol_tf.evaluation.linear import BASE_LEARNING_RATES

    x, labels = representations(dimensions)

    def train(base_lrs, epochs):
        rows = np.arange(EXAMPLES)
        return train_classifiers(
            [x], labels, rows, base_lrs, epochs=epochs, batch_size=1024, seed=0
        )

    def one(epochs):
        return train(BASE_LEARNING_RATES, epochs).kernel

    def five(epochs):
        kernels = [train([base_lr], epochs).kernel for base_lr in BASE_LEARNING_RATES]
        return np.concatenate(kernels, axis=1)

    rivals = {"one": one, "five": five}
    kernels = {name: rival(1) for name, rival in rivals.items()}  # Traces.
    seconds = {name: [] for name in rivals}
    for number in range(rounds):
        for name in sorted(rivals, reverse=bool(number % 2)):
            start = time.perf_counter()
            kernels[name] = rivals[name](epochs)
            seconds[name].append(time.perf_counter() - start)
    ratios = [five / one for one, five in zip(seconds["one"], seconds["five"], strict=True)]
    return {
        "seconds": {name: [round(value, 3) for value in times] for name, times in seconds.items()},
        "five / one": round(statistics.median(ratios), 3),
        "rounds": [round(ratio, 3) for ratio in ratios],
        "difference": float(np.abs(kernels["one"] - kernels["five"]).max()),
        "largest weight": float(np.abs(kernels["one"]).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--note", default="", help="note for the record, such as what else ran")
    args = parser.parse_args()

    context = recording.context("tensorflow", "numpy")
    results = {str(d): measure(d, args.epochs, args.rounds) for d in DIMENSIONS}

    print(f"{args.epochs} epochs, {context['cpu']}, load before {context['load']}")
    print(
        f"{'dimensions':>10} {'one, s':>8} {'five, s':>8} {'five / one':>10} {'min':>6} {'max':>6}"
    )
    for dimensions, result in results.items():
        one, five = (statistics.median(result["seconds"][name]) for name in ("one", "five"))
        ratios = result["rounds"]
        print(
            f"{dimensions:>10} {one:8.2f} {five:8.2f} {result['five / one']:10.2f} "
            f"{min(ratios):6.2f} {max(ratios):6.2f}"
        )
    about = {"epochs": args.epochs, "note": args.note, "results": results}
    print(f"recorded in {recording.append('linear_sweep', context | about).name}")


if __name__ == "__main__":
    main()

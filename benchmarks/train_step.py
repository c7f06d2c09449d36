"""Measures a BYOL step, the overhead of `fit()`, the other stack, and PyTorch with the same step.

    python benchmarks/train_step.py --torch_python=TORCH_VENV/bin/python
    python benchmarks/train_step.py --other_python=.venv-current/bin/python
    python benchmarks/train_step.py --network=resnet50 --torch_python=...

Rivals, each a separate process, timed in turns while the others wait:
  tf-fit-*      `fit()` on views in memory      tf-step-*    the compiled `train_step` alone
  tf-eigen-float32                              the same step without oneDNN's kernels
  other-fit-*                                   `fit()` with the Keras of --other_python
  torch-eager-* and torch-compile-*             channels_last, the step of torch_byol.py
in float32 and bfloat16 (Keras mixed_bfloat16, torch.autocast). The views are random: the input
pipeline has a separate benchmark. On a GPU both sides use it, TensorFlow with XLA.

Targets: fit at most 3 % slower than the bare step; neither stack slower than the other beyond the
spread; TensorFlow's best at least 2 times as fast as PyTorch's best on a CPU with AMX.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # As the commands do.

NETWORKS = {  # depth, image size, stem, batch size
    "resnet18": (18, 32, "small", 64),
    "resnet18-quarter": (18, 32, "small", 256),
    "resnet50": (50, 224, "imagenet", 8),
}
WIDTHS = {"resnet18-quarter": 0.25}
PRECISIONS = ("float32", "bfloat16")


def tf_worker(network: str, precision: str, use_fit: bool) -> Callable[[int], float]:
    """Returns a function that trains `n` steps and returns the seconds they took."""
    import keras
    import tensorflow as tf

    from byol_tf.models import networks, optimizers
    from byol_tf.models.byol import BYOL
    from byol_tf.models.precision import policy_scope

    depth, size, stem, batch_size = NETWORKS[network]
    with policy_scope("mixed_bfloat16" if precision == "bfloat16" else "float32"):
        encoder = networks.resnet(depth, WIDTHS.get(network, 1), size, stem)
        model = BYOL(encoder, total_steps=10_000)
    model.compile(optimizers.LARS(0.1))
    views = np.random.default_rng(0).normal(size=(2, batch_size, size, size, 3)).astype("float32")
    batches = tf.data.Dataset.from_tensors(((views[0], views[1]),)).repeat()

    class Clock(keras.callbacks.Callback):
        """Times of the first step's end and the last's, between which `fit` has no fixed costs."""

        def on_train_batch_end(self, batch, logs=None):
            self.last = time.perf_counter()
            if batch == 0:
                self.first = self.last

    def fit(steps):
        clock = Clock()
        model.fit(batches, steps_per_epoch=steps + 1, verbose=0, callbacks=[clock])
        return clock.last - clock.first

    step = tf.function(model.train_step, jit_compile=model.jit_compile)
    batch = next(iter(batches))

    def bare(steps):
        start = time.perf_counter()
        for _ in range(steps):
            step(batch)["loss"].numpy()
        return time.perf_counter() - start

    return fit if use_fit else bare


def torch_worker(network: str, precision: str, compiled: bool) -> Callable[[int], float]:
    """Returns a function that trains `n` steps in PyTorch and returns the seconds they took."""
    import torch_byol

    depth, size, stem, batch_size = NETWORKS[network]
    return torch_byol.trainer(
        depth, WIDTHS.get(network, 1), size, stem, batch_size, precision, compiled
    )


def serve(name: str, network: str) -> None:
    """Runs in a rival's process: trains the number of steps on each line of standard input."""
    side, kind, precision = name.split("-")
    if side in ("tf", "other"):
        train = tf_worker(network, precision, kind == "fit")
    else:
        train = torch_worker(network, precision, kind == "compile")
    train(2)  # Traces, compiles, warms up.
    print("ready", flush=True)
    for line in sys.stdin:
        seconds = train(int(line))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": seconds, "peak_gib": round(peak, 2)}), flush=True)


def measure(
    names: list[str], network: str, pythons: dict[str, str], steps: int, rounds: int
) -> dict[str, dict]:
    """Returns images per second of each round, and peak memory, by rival."""
    batch_size = NETWORKS[network][3]
    rivals = {}
    for name in names:
        command = [pythons[name.split("-")[0]], __file__, f"--network={network}", f"--serve={name}"]
        rivals[name] = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | ({"TF_ENABLE_ONEDNN_OPTS": "0"} if "-eigen-" in name else {}),
        )
        # One at a time: compiling takes all cores.
        while (line := rivals[name].stdout.readline()) != "ready\n":
            if not line:
                raise SystemExit(f"{name} failed; run {' '.join(command)} to see why")
    results = {name: {"images_per_second": [], "peak_gib": 0} for name in names}
    for _ in range(rounds):
        for name, process in rivals.items():
            process.stdin.write(f"{steps}\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            results[name]["images_per_second"].append(steps * batch_size / answer["seconds"])
            results[name]["peak_gib"] = answer["peak_gib"]
    for process in rivals.values():
        process.stdin.close()
        process.wait()
    return results


def versions(python: str, *packages: str) -> dict[str, str]:
    """Returns the versions of packages in another environment."""
    script = "import importlib.metadata, sys; print(*map(importlib.metadata.version, sys.argv[1:]))"
    command = [python, "-c", script, *packages]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(zip(packages, answer.split(), strict=True))


def main() -> None:
    """Runs the benchmark, prints and records the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, default="resnet18")
    parser.add_argument(
        "--torch_python", help="Python of an environment with torch; without it no PyTorch rivals"
    )
    parser.add_argument(
        "--other_python", help="Python of the other stack's environment; without it no such rival"
    )
    parser.add_argument("--steps", type=int, default=4, help="steps per round (default 4)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds per rival (default 5)")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.network)
        return

    import recording

    names = ["tf-eigen-float32"]
    names += [f"tf-{kind}-{p}" for p in PRECISIONS for kind in ("fit", "step")]
    if args.other_python:
        names += [f"other-fit-{p}" for p in PRECISIONS]
    if args.torch_python:
        names += [f"torch-{kind}-{p}" for p in PRECISIONS for kind in ("eager", "compile")]
    pythons = {"tf": sys.executable, "other": args.other_python, "torch": args.torch_python}
    context = recording.context("tensorflow", "keras")
    if args.other_python:
        context["other_versions"] = versions(args.other_python, "tensorflow", "keras")
    results = measure(names, args.network, pythons, args.steps, args.rounds)

    print(
        f"{args.network}, batch {NETWORKS[args.network][3]}, {context['cpu']}, "
        f"load before {context['load']}"
    )
    print(f"{'rival':24} {'images/s':>9} {'min':>8} {'max':>8} {'peak GiB':>9}")
    medians = {}
    for name, result in results.items():
        speeds = result["images_per_second"]
        medians[name] = statistics.median(speeds)
        print(
            f"{name:24} {medians[name]:9.1f} {min(speeds):8.1f} {max(speeds):8.1f} "
            f"{result['peak_gib']:9.2f}"
        )
    ratios = {}
    for precision in PRECISIONS:
        pairs = zip(
            *(results[f"tf-{kind}-{precision}"]["images_per_second"] for kind in ("step", "fit")),
            strict=True,
        )
        ratios[f"overhead of fit, {precision}"] = statistics.median(
            step / fit - 1 for step, fit in pairs
        )
    pairs = zip(
        *(results[f"tf-{kind}-float32"]["images_per_second"] for kind in ("step", "eigen")),
        strict=True,
    )
    ratios["oneDNN / Eigen, float32"] = statistics.median(dnn / eigen for dnn, eigen in pairs)
    if args.other_python:
        for precision in PRECISIONS:
            pairs = zip(
                *(
                    results[f"{side}-fit-{precision}"]["images_per_second"]
                    for side in ("tf", "other")
                ),
                strict=True,
            )
            ratios[f"this stack / other, {precision}"] = statistics.median(
                this / other for this, other in pairs
            )
    if args.torch_python:
        best = {
            side: max(v for k, v in medians.items() if k.startswith(side))
            for side in ("tf", "torch")
        }
        ratios["best tensorflow / best pytorch"] = best["tf"] / best["torch"]
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.3f}")
    path = recording.append(
        "train_step", context | {"network": args.network, "results": results, "ratios": ratios}
    )
    print(f"recorded in {path.name}")


if __name__ == "__main__":
    main()

"""Which measure without labels ranks encoders as linear accuracy does?

    python benchmarks/label_free.py --train=labelled/train --test=labelled/test \\
        "epoch 1=runs/photos:kept/ckpt-23" "epoch 30=runs/photos"

Each encoder is NAME=RUN or NAME=RUN:CHECKPOINT; CHECKPOINT `random` is the run's encoder before
training. Labels judge: a linear classifier and kNN on centre crops, trained on all of --train and
tested on all of --test. The measures see --images of --test without labels. Each encoder is one
record; the table and the rank correlations are of all records in the file.
"""

import argparse
import json
import os
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import recording
from scipy.stats import spearmanr

# Measure -> whether more is better.
MEASURES = {
    "alignment": False,
    "uniformity": False,
    "alignment + uniformity": False,
    "relative alignment": False,
    "representation std": True,
    "representation rank": True,
    "rotation accuracy": True,
}


def load(place: str) -> Any:
    """Returns the encoder at RUN or RUN:CHECKPOINT."""
    from byol_tf import encoders, runs

    run, _, checkpoint = place.partition(":")
    encoder = encoders.from_run(run, None if checkpoint in ("", "random") else checkpoint)
    if checkpoint == "random":
        return encoders.random_encoder(runs.load_config(run), encoder.preprocessing)
    return encoder


def measure(encoder: Any, train: str, test: str, images: int) -> dict[str, Any]:
    """Returns accuracies, measures and seconds of one encoder."""
    from byol_tf.data import open_source
    from byol_tf.evaluation import knn, label_free, linear, rotation
    from byol_tf.evaluation.splits import Splits

    labelled, tested, _ = Splits(train, test).features(encoder, 0)
    judged = linear.linear_accuracy([labelled], labelled, tested)
    source = open_source(test)
    free = label_free.label_free_measures(
        encoder.encode, source, encoder.preprocessing, limit=images
    )
    start = time.perf_counter()
    turns = rotation.encode_turns(encoder.encode, source, encoder.preprocessing, limit=images)
    encoded = time.perf_counter()
    turning = rotation.accuracy(turns)
    fitted = time.perf_counter()
    upright = turns.representations[:, 0].astype(np.float64)
    unit = upright / np.linalg.norm(upright, axis=1, keepdims=True)
    between_images = 2 * unit.var(axis=0, ddof=1).sum()  # Mean squared distance of all pairs.
    return {
        "linear top-1": judged.top_1,
        "linear interval": judged.interval,
        "kNN top-1": knn.knn_accuracy(labelled, tested).top_1,
        "alignment": free.alignment,
        "uniformity": free.uniformity,
        "alignment + uniformity": free.alignment + free.uniformity,
        "relative alignment": free.alignment / between_images,
        "representation std": free.representation_std,
        "representation rank": free.representation_rank,
        "rotation accuracy": turning.value,
        "rotation interval": (turning.low, turning.high),
        "seconds": {"encode": round(encoded - start, 1), "fit": round(fitted - encoded, 1)},
    }


def table(records: dict[str, dict[str, Any]]) -> str:
    """Returns the records as a Markdown table, best linear accuracy last."""
    from byol_tf.evaluation.results import markdown, percent

    ranked = sorted(records.items(), key=lambda item: item[1]["linear top-1"])
    rows = {
        name: {
            "linear top-1, %": percent(record["linear top-1"], record["linear interval"]),
            "kNN top-1, %": percent(record["kNN top-1"]),
            "rotation accuracy, %": percent(
                record["rotation accuracy"], record["rotation interval"]
            ),
        }
        | {name: f"{record[name]:.3g}" for name in list(MEASURES)[:-1]}
        for name, record in ranked
    }

    def correlation(name, more):
        signed = [(1 if more else -1) * record[name] for _, record in ranked]
        return spearmanr([record["linear top-1"] for _, record in ranked], signed).statistic

    rows["rank correlation with linear"] = {
        "rotation accuracy, %"
        if name == "rotation accuracy"
        else name: f"{correlation(name, more):+.2f}"
        for name, more in MEASURES.items()
    }
    return markdown(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoders", nargs="+", metavar="NAME=RUN[:CHECKPOINT]")
    parser.add_argument("--train", required=True, help="labelled images for the judges")
    parser.add_argument("--test", required=True, help="labelled test images, and the measures'")
    parser.add_argument("--images", type=int, default=2000, help="images for the measures")
    args = parser.parse_args()

    context = recording.context("tensorflow", "numpy")
    for encoder in args.encoders:
        name, _, place = encoder.partition("=")
        record = {"name": name} | measure(load(place), args.train, args.test, args.images)
        path = recording.append("label_free", context | record)
        print(f"recorded {name}: linear {record['linear top-1']:.3f}", flush=True)
    with open(path) as file:
        print(table({record["name"]: record for record in map(json.loads, file)}))


if __name__ == "__main__":
    main()

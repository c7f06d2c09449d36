"""Which measure without labels ranks encoders as linear accuracy does?

    python benchmarks/label_free.py --train=labelled/train --test=labelled/test \\
        "epoch 1=runs/photos:kept/ckpt-23" "epoch 30=runs/photos"

Each encoder is NAME=RUN or NAME=RUN:CHECKPOINT; CHECKPOINT `random` is the run's encoder before
training. Labels judge: a linear classifier and kNN on centre crops, trained on all of --train and
tested on all of --test. The measures see --images of --test without labels. The record has the
table, its rank correlations, and for each pair the loss of rotation accuracy that the pipeline's
gate would see if it were offered the encoder with the better linear accuracy.
"""

import argparse
import dataclasses
import itertools
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


def measure(encoder: Any, train: str, test: str, images: int) -> tuple[dict[str, Any], Any]:
    """Returns accuracies, measures and seconds of one encoder, and its turned images."""
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
    measures = {
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
    return measures, turns


def pairs(records: dict[str, dict[str, Any]], turns: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns each pair, better linear accuracy first, with its loss of rotation accuracy."""
    from byol_tf.evaluation import rotation

    ranked = sorted(records, key=lambda name: -records[name]["linear top-1"])
    found = []
    for better, worse in itertools.combinations(ranked, 2):
        loss = rotation.loss(turns[better], turns[worse])
        gain = records[better]["linear top-1"] - records[worse]["linear top-1"]
        found.append({"better": better, "worse": worse, "linear": gain} | dataclasses.asdict(loss))
    return found


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
    records, turns = {}, {}
    for encoder in args.encoders:
        name, _, place = encoder.partition("=")
        records[name], turns[name] = measure(load(place), args.train, args.test, args.images)
        print(f"{name}: linear {records[name]['linear top-1']:.3f}", flush=True)
    compared = pairs(records, turns)
    print(table(records))
    for pair in compared:
        print(
            f"{pair['better']} for {pair['worse']}: linear +{pair['linear']:.3f}, loss of rotation "
            f"accuracy {pair['value']:+.3f} [{pair['low']:+.3f}, {pair['high']:+.3f}]"
        )
    about = {"images": args.images, "encoders": records, "pairs": compared}
    print(f"recorded in {recording.append('label_free', context | about).name}")


if __name__ == "__main__":
    main()

"""Compares a pretrained encoder with a random one at a dense task, on scenes of real photos.

    python benchmarks/dense_transfer.py --protocol=segmentation --run_dir=runs/demo --images=cifar10
    python benchmarks/dense_transfer.py --protocol=depth --set steps=600 ...

Scenes are made by tests/support/scenes.py from photos pasted onto another photo; test scenes use
test photos. Both encoders are trained with the same settings; segmentation chooses the learning
rate of each on held-out scenes. Appends to benchmarks/results/dense_transfer.jsonl.

Target: the pretrained encoder is better by more than the spread over --seed.
"""

import argparse
import ast
import dataclasses
import os
import pathlib
import sys
import tempfile
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import recording  # noqa: E402
import scenes  # noqa: E402
from absl import logging  # noqa: E402


def settings(protocol: str, size: int) -> dict[str, Any]:
    """Returns the settings for scenes of `size` pixels and a small machine."""
    if protocol == "segmentation":
        return {
            "crop_size": size,
            "scale": (0.75, 1.33),
            "batch_size": 8,
            "steps": 300,
            "learning_rates": (0.01, 0.03, 0.1),
            "channels": 64,
            "dilation": 2,
        }
    if protocol == "depth":
        return {
            "crop": (size, size),
            "downsample": 1.0,
            "batch_size": 8,
            "steps": 400,
            "learning_rate": 0.03,
            "filters": (64, 32, 16, 16),
        }
    return {}


def write_scenes(
    root: pathlib.Path,
    images: pathlib.Path,
    protocol: str,
    counts: tuple[int, int],
    size: int,
    seed: int,
) -> list[str]:
    """Writes both splits and returns their names, as --train_dir and --test_dir take them."""
    names = []
    for split, count in zip(("train", "test"), counts, strict=True):
        options = {"size": size, "seed": 2 * seed + len(names)}
        if protocol == "depth":
            scenes.write_depth(root / split, images / split, count, **options)
            names.append(str(root / split))
        else:
            scenes.write_voc(root, images / split, split, count, **options)
            names.append(f"voc:{root}:{split}")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run_dir", required=True, help="run of byol-pretrain")
    parser.add_argument(
        "--images",
        type=pathlib.Path,
        required=True,
        help="folder with train/<class> and test/<class>",
    )
    parser.add_argument("--protocol", choices=("segmentation", "depth", "detection"), required=True)
    parser.add_argument("--size", type=int, default=64, help="side of the scenes, pixels")
    parser.add_argument("--train_scenes", type=int, default=100)
    parser.add_argument("--test_scenes", type=int, default=200)
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of scenes, new weights and batches"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="override of the protocol's section",
    )
    args = parser.parse_args()

    from byol_tf import encoders, runs
    from byol_tf.configs import evaluation
    from byol_tf.evaluation import find_protocol, results
    from byol_tf.evaluation.splits import Splits

    logging.set_verbosity(logging.INFO)
    config = evaluation.get_config()[args.protocol]
    config.update(settings(args.protocol, args.size))
    for assignment in args.set:
        field, value = assignment.split("=", 1)
        config[field] = ast.literal_eval(value)
    protocol = find_protocol(args.protocol)

    pretrained = encoders.from_run(args.run_dir)
    training = runs.load_config(args.run_dir)
    rows, record = {}, {"rows": {}}
    with tempfile.TemporaryDirectory() as folder:
        counts = (args.train_scenes, args.test_scenes)
        names = write_scenes(
            pathlib.Path(folder), args.images, args.protocol, counts, args.size, args.seed
        )
        for encoder in (pretrained, encoders.random_encoder(training, pretrained.preprocessing)):
            start = time.monotonic()
            splits = Splits(*names, seed=args.seed)
            result = protocol.evaluate(encoder, splits, config)
            rows[encoder.name] = result.cells() | {"seconds": f"{time.monotonic() - start:.0f}"}
            record["rows"][encoder.name] = dataclasses.asdict(result)
    record |= {"protocol": args.protocol, "settings": config.to_dict(), "size": args.size}
    record |= {"train_scenes": counts[0], "test_scenes": counts[1], "seed": args.seed}
    record |= {"encoder": training.encoder.to_dict(), "fingerprint": pretrained.fingerprint}
    recording.append("dense_transfer", record | recording.context("tensorflow", "keras", "numpy"))
    print(results.markdown(rows))


if __name__ == "__main__":
    main()

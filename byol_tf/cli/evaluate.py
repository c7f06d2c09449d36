"""byol-evaluate: kNN and linear evaluation of a pretrained encoder, and of what it has to beat.

    byol-evaluate --run_dir=runs/photos --train_dir=photos/train --test_dir=photos/test --baselines
    byol-evaluate --saved_model=exported/1 --train_dir=... --test_dir=... --protocol=knn
"""

import os
import shlex
import sys
import time

from absl import flags

from byol_tf.cli import run_main
from byol_tf.errors import UserError

_PROTOCOLS = ("knn", "linear")
_FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    """Runs the command; see `--help`."""
    del argv
    start = time.monotonic()
    from byol_tf import baselines, data
    from byol_tf.callbacks.checkpoint import fingerprint, write_atomically
    from byol_tf.evaluation import frozen, results

    output = _output()
    model, encoder, preprocessing, config = _encoder()
    encoders = {"BYOL": encoder}
    if _FLAGS.baselines:
        if config is None:
            raise UserError(
                f"'{_FLAGS.saved_model}' does not say which config it comes from; export it with "
                "byol-export, or leave --baselines out."
            )
        encoders |= baselines.baseline_encoders(config, preprocessing)
    train, test = data.open_source(_FLAGS.train_dir), data.open_source(_FLAGS.test_dir)
    images = frozen.Images(train, test, preprocessing)
    seed = config.seed if config else 0
    rows = {
        name: frozen.evaluate(encoder, images, _FLAGS.protocol, _FLAGS.views, seed)
        for name, encoder in encoders.items()
    }
    record = results.as_record(
        rows,
        command=shlex.join(["byol-evaluate", *sys.argv[1:]]),
        model=model,
        config_fingerprint=fingerprint(config.to_dict()) if config else None,
        train={"source": train.name, "examples": train.num_examples},
        test={"source": test.name, "examples": test.num_examples},
        views=_FLAGS.views,
        wall_seconds=round(time.monotonic() - start, 1),
    )
    if output:
        write_atomically(output, results.as_json(record))
    print(results.as_table(record))


def run() -> None:
    """Console entry point."""
    _define_flags()
    run_main(main)


def _define_flags() -> None:
    flags.DEFINE_string("run_dir", None, "A run of byol-pretrain; or give --saved_model.")
    flags.DEFINE_string(
        "checkpoint",
        None,
        "The checkpoint to evaluate, its path without .index; by default the latest of the run.",
    )
    flags.DEFINE_string(
        "saved_model", None, "An encoder exported by byol-export (its version folder), not a run."
    )
    flags.DEFINE_string(
        "train_dir",
        None,
        "Labelled images that neighbours and classifiers are taken from: a folder with one "
        "subfolder a class, a folder or glob of TFRecords of tf.Example with image/label, or "
        "tfds:NAME[:SPLIT].",
        required=True,
    )
    flags.DEFINE_string(
        "test_dir", None, "Labelled images of the same classes, to be classified.", required=True
    )
    flags.DEFINE_list(
        "protocol",
        ",".join(_PROTOCOLS),
        "What to run, separated by commas. knn: the 200 nearest training images vote, by cosine "
        "similarity at temperature 0.07. linear: the paper's linear classifier, 80 epochs, its "
        "learning rate chosen on held-out training images.",
    )
    flags.DEFINE_bool(
        "baselines",
        False,
        "Also evaluate the encoder as it was before training, by the config's seed, and pixels.",
    )
    flags.DEFINE_integer(
        "views",
        4,
        "Random crops and flips of each training image for linear evaluation. Each costs one pass "
        "of the encoder over the training images, and memory for their representations; 80 is the "
        "paper's protocol, 0 trains on centre crops.",
        lower_bound=0,
    )
    flags.DEFINE_string(
        "output",
        None,
        "JSON file for the results; by default evaluation.json in the run; none of a SavedModel.",
    )
    flags.mark_flags_as_mutual_exclusive(["run_dir", "saved_model"], required=True)
    flags.mark_flags_as_mutual_exclusive(["checkpoint", "saved_model"])
    flags.register_validator(
        "protocol",
        lambda names: bool(names) and set(names) <= set(_PROTOCOLS),
        f"give one or more of {', '.join(_PROTOCOLS)}, separated by commas",
    )


def _output() -> str | None:
    """Where the results go; looked at first, so that a typing mistake does not cost hours."""
    output = _FLAGS.output
    if output is None and _FLAGS.run_dir:
        output = os.path.join(_FLAGS.run_dir, "evaluation.json")
    if output and not os.path.isdir(os.path.dirname(output) or "."):
        raise UserError(
            f"there is no folder for '{output}'; create it, or correct --output or --run_dir."
        )
    return output


def _encoder():
    """What is evaluated: its path, encoder, preprocessing and config (None where unknown)."""
    import ml_collections
    import tensorflow as tf

    from byol_tf import export, pretrain

    if _FLAGS.saved_model:
        encoder, preprocessing, card = export.load_encoder(_FLAGS.saved_model)
        config = card.get("config")
        config = ml_collections.ConfigDict(config) if config else None
        return _FLAGS.saved_model, encoder, preprocessing, config
    config = pretrain.load_config(_FLAGS.run_dir)
    folder = os.path.join(_FLAGS.run_dir, "checkpoints")
    checkpoint = _FLAGS.checkpoint or tf.train.latest_checkpoint(folder)
    encoder = pretrain.restore_encoder(_FLAGS.run_dir, checkpoint)
    return checkpoint, encoder, pretrain.preprocessing_from_config(config), config


if __name__ == "__main__":
    run()

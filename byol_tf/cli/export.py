"""byol-export: writes the encoder of a run as a SavedModel for TF Serving, byol-serve and TFX.

For example:

    byol-export --run_dir=runs/photos --output=exported/photos/1

Or for other runtimes, also from a SavedModel that a pipeline has pushed:

    byol-export --run_dir=runs/photos --format=onnx --output=photos.onnx
    byol-export --saved_model=serving/photos/1700000000 --format=tflite --quantize=int8 \\
        --images=photos/ --output=photos.tflite
"""

import dataclasses
import json
import os
from typing import TYPE_CHECKING, Any

import ml_collections
import numpy as np
from absl import flags, logging

from byol_tf.choices import FORMATS
from byol_tf.cli import hidden_stderr, import_tensorflow, run_main, warn_of_version
from byol_tf.errors import UserError

if TYPE_CHECKING:
    import keras

    from byol_tf.images.preprocessing import Preprocessing

_FLAGS = flags.FLAGS
_STEP = "model/step/.ATTRIBUTES/VARIABLE_VALUE"
# Images of --images that are read: int8 is calibrated on three of four of them.
_INT8_IMAGES, _COMPARED_IMAGES = 200, 16


def main(argv: list[str]) -> None:
    """Runs the command; see `--help`."""
    del argv
    logging.set_verbosity(logging.WARNING)  # TensorFlow logs every weight several times.
    _check_flags()
    import_tensorflow()
    note = _export_saved_model() if _FLAGS.saved_model else _export_run()
    print(f"The encoder is in {_FLAGS.output}{note}.")


def _check_flags() -> None:
    """Raises `UserError` where flags contradict each other or the format."""
    if (_FLAGS.run_dir is None) == (_FLAGS.saved_model is None):
        raise UserError("give either --run_dir or --saved_model, the encoder to export.")
    if _FLAGS.saved_model and _FLAGS.checkpoint:
        raise UserError("--checkpoint is one of --run_dir; leave it out with --saved_model.")
    if _FLAGS.saved_model and _FLAGS.format == "saved_model":
        raise UserError(f"'{_FLAGS.saved_model}' is a SavedModel already; give another --format.")
    if _FLAGS.quantize and _FLAGS.format != "tflite":
        raise UserError(f"--quantize is for --format=tflite, not {_FLAGS.format}; leave it out.")
    if _FLAGS.quantize and not _FLAGS.images:
        raise UserError(
            "--quantize=int8 needs --images, a folder of images such as the encoder will see."
        )
    if _FLAGS.images and _FLAGS.format == "saved_model":
        raise UserError("--images is for the other formats, not for a SavedModel; leave it out.")
    ending = os.path.splitext(_FLAGS.output.rstrip("/"))[1]
    if _FLAGS.format == "saved_model" and ending[1:] in FORMATS:
        raise UserError(
            f"--output={_FLAGS.output} looks like another format's file; add "
            f"--format={ending[1:]}, or give a folder MODEL/VERSION."
        )


def _export_run() -> str:
    """Exports the encoder of a run; returns a note on its training, or an empty string."""
    from byol_tf import export, runs
    from byol_tf.build import preprocessing_from_config

    config = runs.load_config(_FLAGS.run_dir)
    checkpoint = _FLAGS.checkpoint or runs.latest_checkpoint(_FLAGS.run_dir)
    encoder = runs.restore_encoder(_FLAGS.run_dir, checkpoint)
    preprocessing = preprocessing_from_config(config)
    metadata = {
        "checkpoint": checkpoint,
        "config": config.to_dict(),
        "evaluation": _evaluation(checkpoint),
    }
    if _FLAGS.format == "saved_model":
        warn_of_version(_FLAGS.output)
        export.save_encoder(encoder, _FLAGS.output, preprocessing=preprocessing, metadata=metadata)
    else:
        _convert(encoder, preprocessing, metadata)
    return _unfinished(config, checkpoint) if checkpoint else ""


def _export_saved_model() -> str:
    """Converts an exported SavedModel; returns an empty note."""
    from byol_tf import encoders, export

    path = _FLAGS.saved_model
    _, preprocessing, card = export.load_saved_model(path)
    if _FLAGS.format != "keras":
        _convert(path, preprocessing, None)
        return ""
    encoder, _ = encoders.from_saved_model(path)
    if encoder.build is None:
        raise UserError(
            f"the model card of '{path}' has no config to build a Keras model from; export the run "
            "instead, or save the Keras model with export.save_keras."
        )
    try:
        model = encoder.build()
    except ValueError as error:
        raise UserError(
            f"the weights of '{path}' do not fit the encoder of its config ({error}); another "
            "version of byol_tf exported it, so export the run again."
        ) from error
    _convert(model, preprocessing, card)
    return ""


def _convert(
    encoder: "keras.Model | str", preprocessing: "Preprocessing", metadata: dict | None
) -> None:
    """Writes a file of --format; the encoder is a Keras model or the path of a SavedModel."""
    from byol_tf import export

    arguments: dict[str, Any] = {
        "preprocessing": preprocessing,
        "images": _images(preprocessing) if _FLAGS.images else None,
        "metadata": metadata,
    }
    if _FLAGS.format == "keras":
        export.save_keras(encoder, _FLAGS.output, **arguments)
    elif _FLAGS.format == "onnx":
        export.save_onnx(encoder, _FLAGS.output, **arguments)
    else:
        with hidden_stderr():  # The converter counts operations there.
            export.save_tflite(encoder, _FLAGS.output, quantize=_FLAGS.quantize, **arguments)


def _images(preprocessing: "Preprocessing") -> np.ndarray:
    """Returns central squares of --images, twice the encoder's size: `[N, 2S, 2S, C]`."""
    from byol_tf import data

    squares = dataclasses.replace(
        preprocessing.unnormalized(), image_size=2 * preprocessing.image_size, crop_fraction=1.0
    )
    dtype = preprocessing.pixel_type.as_numpy_dtype
    limit = _INT8_IMAGES if _FLAGS.quantize else _COMPARED_IMAGES
    images = [
        np.round((2**preprocessing.bit_depth - 1) * batch[0]).astype(dtype)
        for batch, _, _ in data.evaluation_dataset(
            _FLAGS.images, squares, batch_size=1, limit=limit
        ).as_numpy_iterator()
    ]
    if not images:
        raise UserError(f"no image of '{_FLAGS.images}' can be read; give others.")
    return np.stack(images)


def _unfinished(config: ml_collections.ConfigDict, checkpoint: str) -> str:
    """Returns a note with the checkpoint's step if it is not the last; empty if unknown."""
    import tensorflow as tf

    from byol_tf.models import schedules

    reader = tf.train.load_checkpoint(checkpoint)
    if not (reader.has_tensor(_STEP) and "examples" in config):
        return ""
    step = int(reader.get_tensor(_STEP))
    total = schedules.steps_per_epoch(config.examples, config.batch_size) * config.epochs
    return f" (step {step:,} of {total:,}: the training is not finished)" if step < total else ""


def _evaluation(checkpoint: str | None) -> dict | None:
    """Returns the results of byol-evaluate in the run, if they are for this checkpoint."""
    try:
        with open(os.path.join(_FLAGS.run_dir, "evaluation.json")) as file:
            record = json.load(file)
    except FileNotFoundError:
        return None
    return record if record["model"] == checkpoint else None


def run() -> None:
    """Runs the console script."""
    _define_flags()
    run_main(main)


def _define_flags() -> None:
    flags.DEFINE_string("run_dir", None, "Folder of a run of byol-pretrain.")
    flags.DEFINE_string(
        "checkpoint",
        None,
        "Path of the checkpoint to export, without .index; by default the latest of the run.",
    )
    flags.DEFINE_string(
        "saved_model",
        None,
        "Instead of a run, an exported SavedModel to convert: the folder MODEL/VERSION that "
        "byol-export wrote or byol-pipeline pushed.",
    )
    flags.DEFINE_enum(
        "format",
        "saved_model",
        FORMATS,
        "saved_model for TF Serving and byol-serve; keras to train on; onnx for ONNX Runtime, "
        "Triton, TensorRT and browsers; tflite for phones. docs/runtimes.md shows each.",
    )
    flags.DEFINE_enum(
        "quantize", None, ("int8",), "int8 makes a TFLite file four times as small; needs --images."
    )
    flags.DEFINE_string(
        "images",
        None,
        "Images such as the encoder will see, named as byol-pretrain's --data_dir. The file is "
        "compared with the encoder on them (without them on drawn images), and int8 is "
        "calibrated on them.",
    )
    flags.DEFINE_string(
        "output",
        None,
        "Folder of the new SavedModel, MODEL/VERSION (TF Serving serves the highest version in "
        "MODEL that is a number); for other formats a file that ends with .keras, .onnx or "
        ".tflite. The model card of FILE is FILE.card.json.",
        required=True,
    )


if __name__ == "__main__":
    run()

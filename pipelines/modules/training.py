"""Trainer's `run_fn`: pretrains, exports, and keeps the learning curves.

`pipelines.training_runs` keeps its checkpoints outside of TFX's artifacts.
"""

import os
from typing import TYPE_CHECKING

import ml_collections
import tensorflow as tf
import tensorflow_transform as tft

from byol_tf import build, export, runs
from byol_tf.training import pretrain
from pipelines import training_runs, warm_start

if TYPE_CHECKING:  # TFX is slow to import, and needed for an annotation only.
    from tfx import v1 as tfx


class Prepare(tf.Module):
    """Transform's graph as a function of image files: string `[B]` -> string `[B]`.

    Args:
        transform_graph: Path of Transform's output.
    """

    def __init__(self, transform_graph: str):
        super().__init__()
        # An attribute, so that the export tracks the layer's resources.
        self.layer = tft.TFTransformOutput(transform_graph).transform_features_layer()

    def __call__(self, image_bytes: tf.Tensor) -> tf.Tensor:
        """Returns the transformed image files."""
        return self.layer({"image/encoded": image_bytes[:, tf.newaxis]})["image/encoded"][:, 0]


def run_fn(fn_args: "tfx.components.FnArgs") -> None:
    """Pretrains on the train split and exports the encoder.

    A run that was killed continues from its last checkpoint.

    Args:
        fn_args: Arguments of Trainer. Its custom_config has `config` (of byol_tf.configs),
            `strategy`, `training_dir`, `model_name` and `code`.
    """
    options = fn_args.custom_config
    config = ml_collections.ConfigDict(options["config"])
    start = fn_args.base_model and os.path.dirname(fn_args.base_model)  # Without TFX's subfolder.
    warm_start.set_weights(config, start)
    (train_files,) = fn_args.train_files
    identity = {
        "config": options["config"],
        "code": options["code"],
        "examples": train_files,
        "transform_graph": fn_args.transform_graph_path,
        "start": start,
    }
    run_dir = training_runs.open_run(options["training_dir"], identity)
    pretrain.pretrain(config, train_files, run_dir, options["strategy"])
    # With what the run measured on its images, such as the normalisation.
    config = runs.load_config(run_dir)
    export.save_encoder(
        runs.restore_encoder(run_dir),
        fn_args.serving_model_dir,
        preprocessing=build.preprocessing_from_config(config),
        prepare=Prepare(fn_args.transform_graph_path),
        model_name=options["model_name"],
        metadata={
            "config": options["config"] | {"normalize": config.normalize.to_dict()},
            "code": options["code"],
            "started_from": config.to_dict().get("started_from"),
        },
    )
    _keep_curves(run_dir, fn_args.model_run_dir)
    training_runs.close_run(run_dir)


def _keep_curves(run_dir: str, model_run_dir: str) -> None:
    """Copies TensorBoard's logs, history.csv and config.json into the artifact."""
    for folder, _, names in tf.io.gfile.walk(run_dir):
        below = os.path.relpath(folder, run_dir)
        if below.split(os.sep)[0] == "checkpoints":
            continue
        target = os.path.normpath(os.path.join(model_run_dir, below))
        tf.io.gfile.makedirs(target)
        for name in names:
            tf.io.gfile.copy(os.path.join(folder, name), os.path.join(target, name), overwrite=True)

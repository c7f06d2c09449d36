"""Executor of LinearProbe."""

import os
import time

import ml_collections
from tfx.dsl.components.base import base_executor
from tfx.types import artifact_utils
from tfx.utils import path_utils

from byol_tf import baselines, data, export, export_classifier
from byol_tf.callbacks.checkpoint import write_atomically
from byol_tf.evaluation import frozen, knn, linear, results

EVALUATION = "evaluation.json"


class Executor(base_executor.BaseExecutor):
    """Trains and exports the classifier; evaluates it beside the baselines."""

    def Do(self, input_dict, output_dict, exec_properties):
        start = time.monotonic()
        (model,) = output_dict["model"]
        encoder_path = path_utils.serving_model_path(
            artifact_utils.get_single_uri(input_dict["encoder"])
        )
        encoder, preprocessing, card = export.load_encoder(encoder_path)
        config = ml_collections.ConfigDict(card["config"])
        train, test = (
            data.open_source(
                os.path.join(artifact_utils.get_split_uri(input_dict["examples"], split), "*")
            )
            for split in ("train", "eval")
        )
        images = frozen.Images(train, test, preprocessing)
        views = exec_properties["views"]

        train_features, test_features, view_features = images.passes(encoder, views, config.seed)
        fit = linear.fit_linear(view_features or [train_features], train_features, seed=config.seed)
        rows = {
            "BYOL": {
                "knn": knn.knn_accuracy(train_features, test_features),
                "linear": linear.evaluate_fit(fit, test_features),
            }
        }
        for name, baseline in baselines.baseline_encoders(config, preprocessing).items():
            rows[name] = frozen.evaluate(baseline, images, rows["BYOL"], views, config.seed)
        export_classifier.save_classifier(
            encoder_path,
            fit.classifiers.kernel[:, 0],
            fit.classifiers.bias[0],
            train.class_names,
            path_utils.serving_model_dir(model.uri),
        )
        record = results.as_record(
            rows,
            command="LinearProbe",
            model=encoder_path,
            train={"source": train.name, "examples": train.num_examples},
            test={"source": test.name, "examples": test.num_examples},
            views=views,
            wall_seconds=round(time.monotonic() - start, 1),
        )
        write_atomically(os.path.join(model.uri, EVALUATION), results.as_json(record))

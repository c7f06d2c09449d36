"""Executor of LinearProbe."""

import os
import tempfile
import time
from typing import Any

from absl import logging
from tfx.dsl.components.base import base_executor
from tfx.types import artifact, artifact_utils
from tfx.utils import path_utils

from byol_tf import encoders
from byol_tf.configs import evaluation
from byol_tf.errors import UserError
from byol_tf.evaluation import knn, linear, results
from byol_tf.evaluation.cache import FeatureCache
from byol_tf.evaluation.splits import Splits
from byol_tf.export import classifier
from byol_tf.files import write_atomically
from pipelines import warm_start

EVALUATION = "evaluation.json"
UNMEASURED = "unmeasured"  # Property of the model: why there is no classifier.


class Executor(base_executor.BaseExecutor):
    """Trains and exports the classifier, and evaluates it and the baselines."""

    def Do(
        self,
        input_dict: dict[str, list[artifact.Artifact]],
        output_dict: dict[str, list[artifact.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the classifier's SavedModel and `evaluation.json`.

        Raises:
            UserError: Accuracy cannot be measured on the labels, and should decide.
        """
        (model,) = output_dict["model"]
        try:
            self._measure(input_dict, model, exec_properties["views"])
        except UserError as error:
            if exec_properties["decides"]:
                raise
            logging.warning("no accuracy is reported: %s", error)
            model.set_string_custom_property(UNMEASURED, str(error))
            write_atomically(os.path.join(model.uri, EVALUATION), results.as_json({"rows": []}))

    def _measure(
        self,
        input_dict: dict[str, list[artifact.Artifact]],
        model: artifact.Artifact,
        views: int,
    ) -> None:
        start = time.monotonic()
        encoder_path = path_utils.serving_model_path(
            artifact_utils.get_single_uri(input_dict["encoder"])
        )
        pretrained, config = encoders.from_saved_model(encoder_path)
        assert config is not None  # Trainer exports it with the model.
        weights = input_dict.get("start")
        warm_start.set_weights(config, weights[0].uri if weights else None)
        before = encoders.before_training(config, pretrained.preprocessing)
        train, test = (
            os.path.join(artifact_utils.get_split_uri(input_dict["examples"], split), "*")
            for split in ("train", "eval")
        )
        protocols = evaluation.get_config()
        protocols.linear.views = views
        with tempfile.TemporaryDirectory() as features:
            splits = Splits(train, test, seed=config.seed, cache=FeatureCache(features))
            train_features, test_features, crops = splits.features(pretrained, views)
            fit = linear.fit_linear(crops or [train_features], train_features, seed=config.seed)
            rows = {
                pretrained.name: {
                    "knn": knn.evaluate(pretrained, splits, protocols.knn),
                    "linear": linear.evaluate_fit(fit, test_features),
                }
            }
            for baseline in (
                *([before] if before else []),
                encoders.random_encoder(config, pretrained.preprocessing),
                encoders.raw_pixels(pretrained.preprocessing),
            ):
                rows[baseline.name] = {
                    "knn": knn.evaluate(baseline, splits, protocols.knn),
                    "linear": linear.evaluate(baseline, splits, protocols.linear),
                }
        classifier.save_classifier(
            encoder_path,
            fit.classifiers.kernel[:, 0],
            fit.classifiers.bias[0],
            splits.class_names,
            path_utils.serving_model_dir(model.uri),
        )
        record = results.as_record(
            rows,
            command="LinearProbe",
            model=encoder_path,
            **splits.described(),
            protocols=protocols.to_dict(),
            wall_seconds=round(time.monotonic() - start, 1),
        )
        write_atomically(os.path.join(model.uri, EVALUATION), results.as_json(record))

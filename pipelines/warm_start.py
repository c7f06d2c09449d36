"""The weights that a training starts from, `config.encoder.weights`, as an artifact.

A file or folder is imported, so that the lineage has it; `last` is the encoder that this pipeline
pushed last, found by `resolvers.LastPushed`. Trainer and LinearProbe get the artifact as an input.
"""

import os

import ml_collections
import tensorflow as tf

from pipelines.settings import LAST


def set_weights(config: ml_collections.ConfigDict, model_uri: str | None) -> None:
    """Sets `config.encoder.weights` to the path of the artifact's weights.

    Args:
        config: Training config.
        model_uri: Artifact of an imported file or of a Trainer; None if there is none, which for
            `last` means that nothing has been pushed yet and training starts from random weights.
    """
    if model_uri:
        export = os.path.join(model_uri, "Format-Serving")
        config.encoder.weights = export if tf.io.gfile.exists(export) else model_uri
    elif config.encoder.get("weights") == LAST:
        config.encoder.weights = None

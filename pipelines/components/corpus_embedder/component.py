"""CorpusEmbedder: a folder of images, each as a row of a Parquet file."""

import json

from tfx.dsl.components.base import base_beam_component, executor_spec
from tfx.types import channel, component_spec, standard_artifacts

from pipelines.artifacts import Embeddings
from pipelines.components.corpus_embedder import executor


class CorpusEmbedderSpec(component_spec.ComponentSpec):
    """See `CorpusEmbedder`."""

    PARAMETERS = {
        "data_dir": component_spec.ExecutionParameter(type=str),
        "versions": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "model_blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
    }
    OUTPUTS = {"embeddings": component_spec.ChannelParameter(type=Embeddings)}


class CorpusEmbedder(base_beam_component.BaseBeamComponent):
    """Embeds all images below a folder; BulkInferrer would store every image once more.

    Args:
        model: the encoder.
        model_blessing: an encoder that is not blessed embeds nothing.
        data_dir: a folder on any file system that Beam knows.
        versions: strings by name that stand for the code and the folder's content.
    """

    SPEC_CLASS = CorpusEmbedderSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        model: channel.BaseChannel,
        model_blessing: channel.BaseChannel,
        data_dir: str,
        versions: dict[str, str],
    ):
        super().__init__(
            CorpusEmbedderSpec(
                model=model,
                model_blessing=model_blessing,
                data_dir=data_dir,
                versions=json.dumps(versions, sort_keys=True),
                embeddings=channel.Channel(type=Embeddings),
            )
        )

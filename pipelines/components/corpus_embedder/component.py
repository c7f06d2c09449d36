"""CorpusEmbedder: embeds a folder of images into Parquet files, one row per image."""

import json

from tfx import v1 as tfx
from tfx.dsl.components.base import executor_spec
from tfx.types import component_spec

from pipelines.artifacts import Embeddings
from pipelines.components.corpus_embedder import executor


class CorpusEmbedderSpec(component_spec.ComponentSpec):
    """Specification of `CorpusEmbedder`."""

    PARAMETERS = {
        "data_dir": component_spec.ExecutionParameter(type=str),
        "versions": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "model": component_spec.ChannelParameter(type=tfx.types.standard_artifacts.Model),
        "model_blessing": component_spec.ChannelParameter(
            type=tfx.types.standard_artifacts.ModelBlessing
        ),
    }
    OUTPUTS = {"embeddings": component_spec.ChannelParameter(type=Embeddings)}


class CorpusEmbedder(tfx.types.BaseBeamComponent):
    """Embeds all images below a folder; BulkInferrer would store a copy of every image.

    Args:
        model: Channel of the encoder.
        model_blessing: Channel of its blessing; without a blessing nothing is embedded.
        data_dir: Folder on any file system that Beam supports.
        versions: Digests by name that stand for the code and the folder's content.
    """

    SPEC_CLASS = CorpusEmbedderSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

    def __init__(
        self,
        model: tfx.types.BaseChannel,
        model_blessing: tfx.types.BaseChannel,
        data_dir: str,
        versions: dict[str, str],
    ):
        super().__init__(
            CorpusEmbedderSpec(
                model=model,
                model_blessing=model_blessing,
                data_dir=data_dir,
                versions=json.dumps(versions, sort_keys=True),
                embeddings=tfx.dsl.Channel(type=Embeddings),
            )
        )

"""Artifact types that TFX does not have.

On Kubeflow a TYPE_NAME is also the path from which the container imports the class, and may contain
only one dot: see `pipelines.__getattr__`. There `tfx.v1` would be a slow import for one base class.
"""

from tfx.types.artifact import Artifact


class ApprovedStatistics(Artifact):
    """Statistics of data that passed DataGate; the next run measures drift against them.

    Files: `Split-<name>/FeatureStats.pb`, and `anomalies.json` with the allowed anomalies.
    """

    TYPE_NAME = "pipelines.ApprovedStatistics"


class Embeddings(Artifact):
    """`embeddings-*.parquet` with the columns key (string) and embedding (list of float32)."""

    TYPE_NAME = "pipelines.Embeddings"

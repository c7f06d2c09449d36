"""Artifact types that TFX does not have.

On Kubeflow a TYPE_NAME is also the path that the container imports the class by, and may have one
dot only: see `pipelines.__getattr__`.
"""

from tfx.types.artifact import Artifact


class ApprovedStatistics(Artifact):
    """Statistics of data that passed DataGate: what the next run's drift is measured against.

    `Split-<name>/FeatureStats.pb`, and `anomalies.json` of those that were let pass.
    """

    TYPE_NAME = "pipelines.ApprovedStatistics"


class Embeddings(Artifact):
    """`embeddings-*.parquet` with the columns key (string) and embedding (list of float32)."""

    TYPE_NAME = "pipelines.Embeddings"

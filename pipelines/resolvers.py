"""A resolver strategy that TFX lacks."""

from tfx.dsl.input_resolution.strategies.latest_artifact_strategy import LatestArtifactStrategy


class LatestIfAny(LatestArtifactStrategy):
    """The latest artifact, or none in the first run, where TFX's own would fail the node."""

    def resolve_artifacts(self, store, input_dict):
        return self._resolve(input_dict)

"""A resolver strategy that TFX lacks."""

import ml_metadata as mlmd
from tfx import v1 as tfx


class LatestIfAny(tfx.dsl.experimental.LatestArtifactStrategy):
    """Resolves to the latest artifact, or to none in the first run, when TFX's own would fail."""

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[tfx.dsl.Artifact]]
    ) -> dict[str, list[tfx.dsl.Artifact]]:
        """Returns the latest artifact of each input, or an empty list."""
        # Private to TFX. The parent's public method turns an empty list into None: a failed node.
        return self._resolve(input_dict)

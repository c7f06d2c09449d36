"""Resolver strategies that TFX lacks."""

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


class LastPushed(tfx.dsl.experimental.LatestArtifactStrategy):
    """Resolves to the model that was pushed last, or to none before the first push.

    Its inputs are `model`, of any component, and `pushed_model`, of ModelPusher.
    """

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[tfx.dsl.Artifact]]
    ) -> dict[str, list[tfx.dsl.Artifact]]:
        """Returns the model and what it was pushed as, or two empty lists."""
        models = {model.id: model for model in input_dict["model"]}
        for pushed in sorted(input_dict["pushed_model"], key=lambda a: a.id, reverse=True):
            model = models.get(pushed.get_int_custom_property("model_id"))
            if model is not None:
                return {"model": [model], "pushed_model": [pushed]}
        return {"model": [], "pushed_model": []}

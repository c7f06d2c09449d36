"""RepresentationCheck: blesses or rejects an encoder if there are no labels."""

from tfx import v1 as tfx
from tfx.dsl.components.base import executor_spec
from tfx.types import component_spec

from pipelines.components.representation_check import executor


class RepresentationCheckSpec(component_spec.ComponentSpec):
    """Specification of `RepresentationCheck`."""

    PARAMETERS = {
        "min_spread": component_spec.ExecutionParameter(type=float),
        "max_measure_loss": component_spec.ExecutionParameter(type=float),
        "code": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=tfx.types.standard_artifacts.Examples),
        "model": component_spec.ChannelParameter(type=tfx.types.standard_artifacts.Model),
        "baseline_model": component_spec.ChannelParameter(
            type=tfx.types.standard_artifacts.Model, optional=True
        ),
    }
    OUTPUTS = {
        "evaluation": component_spec.ChannelParameter(
            type=tfx.types.standard_artifacts.ModelEvaluation
        ),
        "blessing": component_spec.ChannelParameter(
            type=tfx.types.standard_artifacts.ModelBlessing
        ),
    }


class RepresentationCheck(tfx.types.BaseComponent):
    """Blesses an encoder that has not collapsed and is not clearly worse than the last blessed.

    Args:
        examples: Channel of transformed examples; the split eval is measured.
        model: Channel of the encoder.
        baseline_model: Channel of the last blessed encoder, if any; measured on the same images.
        min_spread: Lowest standard deviation of the normalised representations times √D; 0 in a
            collapse, 1 if even.
        max_measure_loss: Largest fall of the rotation probe's accuracy from the baseline's, in
            [0, 1]; a fall that may be chance is allowed.
        code: Digest of the code.
    """

    SPEC_CLASS = RepresentationCheckSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        examples: tfx.types.BaseChannel,
        model: tfx.types.BaseChannel,
        baseline_model: tfx.types.BaseChannel | None,
        min_spread: float,
        max_measure_loss: float,
        code: str,
    ):
        super().__init__(
            RepresentationCheckSpec(
                examples=examples,
                model=model,
                baseline_model=baseline_model,
                min_spread=min_spread,
                max_measure_loss=max_measure_loss,
                code=code,
                evaluation=tfx.dsl.Channel(type=tfx.types.standard_artifacts.ModelEvaluation),
                blessing=tfx.dsl.Channel(type=tfx.types.standard_artifacts.ModelBlessing),
            )
        )

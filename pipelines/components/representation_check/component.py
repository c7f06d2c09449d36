"""RepresentationCheck: Evaluator's place where there are no labels."""

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import channel, component_spec, standard_artifacts

from pipelines.components.representation_check import executor


class RepresentationCheckSpec(component_spec.ComponentSpec):
    """See `RepresentationCheck`."""

    PARAMETERS = {
        "min_spread": component_spec.ExecutionParameter(type=float),
        "max_measure_loss": component_spec.ExecutionParameter(type=float),
        "code": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "baseline_model": component_spec.ChannelParameter(
            type=standard_artifacts.Model, optional=True
        ),
    }
    OUTPUTS = {
        "evaluation": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
    }


class RepresentationCheck(base_component.BaseComponent):
    """Blesses an encoder that has not collapsed and is not clearly worse than the last blessed.

    Args:
        examples: transformed; the split eval is looked at.
        model: the encoder.
        baseline_model: the last blessed encoder, if any; it is measured on the same images.
        min_spread: std of the normalised representations times √D, 0 in a collapse, 1 if even.
        max_measure_loss: by how much, relative to the baseline, spread and effective rank may
            fall, and alignment and uniformity rise.
        code: digest of the code.
    """

    SPEC_CLASS = RepresentationCheckSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        examples: channel.BaseChannel,
        model: channel.BaseChannel,
        baseline_model: channel.BaseChannel | None = None,
        min_spread: float = 0.1,
        max_measure_loss: float = 0.25,
        code: str = "",
    ):
        super().__init__(
            RepresentationCheckSpec(
                examples=examples,
                model=model,
                baseline_model=baseline_model,
                min_spread=min_spread,
                max_measure_loss=max_measure_loss,
                code=code,
                evaluation=channel.Channel(type=standard_artifacts.ModelEvaluation),
                blessing=channel.Channel(type=standard_artifacts.ModelBlessing),
            )
        )

"""ServingCheck: an infrastructure blessing without a container."""

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import channel, component_spec, standard_artifacts

from pipelines.components.serving_check import executor


class ServingCheckSpec(component_spec.ComponentSpec):
    """See `ServingCheck`."""

    PARAMETERS = {
        "num_examples": component_spec.ExecutionParameter(type=int),
        "code": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
    }
    OUTPUTS = {"blessing": component_spec.ChannelParameter(type=standard_artifacts.InfraBlessing)}


class ServingCheck(base_component.BaseComponent):
    """Loads the encoder as TF Serving does and replays requests through every signature.

    Args:
        model: the encoder.
        examples: of ImageExampleGen; requests are made of the split eval.
        num_examples: how many images.
        code: digest of the code.
    """

    SPEC_CLASS = ServingCheckSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        model: channel.BaseChannel,
        examples: channel.BaseChannel,
        num_examples: int = 16,
        code: str = "",
    ):
        super().__init__(
            ServingCheckSpec(
                model=model,
                examples=examples,
                num_examples=num_examples,
                code=code,
                blessing=channel.Channel(type=standard_artifacts.InfraBlessing),
            )
        )

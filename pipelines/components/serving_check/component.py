"""ServingCheck: gives an infrastructure blessing without a container."""

from tfx import v1 as tfx
from tfx.dsl.components.base import executor_spec
from tfx.types import component_spec

from pipelines.components.serving_check import executor


class ServingCheckSpec(component_spec.ComponentSpec):
    """Specification of `ServingCheck`."""

    PARAMETERS = {
        "num_examples": component_spec.ExecutionParameter(type=int),
        "code": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "model": component_spec.ChannelParameter(type=tfx.types.standard_artifacts.Model),
        "examples": component_spec.ChannelParameter(type=tfx.types.standard_artifacts.Examples),
    }
    OUTPUTS = {
        "blessing": component_spec.ChannelParameter(type=tfx.types.standard_artifacts.InfraBlessing)
    }


class ServingCheck(tfx.types.BaseComponent):
    """Loads the encoder as TF Serving does and replays requests through every signature.

    Args:
        model: Channel of the encoder.
        examples: Channel of ImageExampleGen; requests are made of the split eval.
        num_examples: Number of images in the requests.
        code: Digest of the code.
    """

    SPEC_CLASS = ServingCheckSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        model: tfx.types.BaseChannel,
        examples: tfx.types.BaseChannel,
        num_examples: int,
        code: str,
    ):
        super().__init__(
            ServingCheckSpec(
                model=model,
                examples=examples,
                num_examples=num_examples,
                code=code,
                blessing=tfx.dsl.Channel(type=tfx.types.standard_artifacts.InfraBlessing),
            )
        )

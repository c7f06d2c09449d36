"""LinearProbe: what the representation is worth, as a classifier that can be served."""

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import channel, component_spec, standard_artifacts

from pipelines.components.linear_probe import executor


class LinearProbeSpec(component_spec.ComponentSpec):
    """See `LinearProbe`."""

    PARAMETERS = {
        "views": component_spec.ExecutionParameter(type=int),
        "code": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "encoder": component_spec.ChannelParameter(type=standard_artifacts.Model),
    }
    OUTPUTS = {"model": component_spec.ChannelParameter(type=standard_artifacts.Model)}


class LinearProbe(base_component.BaseComponent):
    """Linear evaluation (paper, appendix C.1) of a frozen encoder.

    The output `model` is encoder and classifier as one SavedModel, whose signature `examples` is
    what Evaluator calls. Beside it lies `evaluation.json`: kNN and linear accuracy on the eval
    split, of the encoder and of what it has to beat (itself before training, raw pixels).

    Args:
        examples: transformed, with the splits train and eval and with labels.
        encoder: of Trainer.
        views: random crops and flips an image to train on; 0 takes centre crops.
        code: digest of the code.
    """

    SPEC_CLASS = LinearProbeSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        examples: channel.BaseChannel,
        encoder: channel.BaseChannel,
        views: int = 0,
        code: str = "",
    ):
        super().__init__(
            LinearProbeSpec(
                examples=examples,
                encoder=encoder,
                views=views,
                code=code,
                model=channel.Channel(type=standard_artifacts.Model),
            )
        )

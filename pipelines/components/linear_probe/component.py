"""LinearProbe: measures the representation by a linear classifier, which can be served."""

from tfx import v1 as tfx
from tfx.dsl.components.base import executor_spec
from tfx.types import component_spec

from pipelines.components.linear_probe import executor


class LinearProbeSpec(component_spec.ComponentSpec):
    """Specification of `LinearProbe`."""

    PARAMETERS = {
        "views": component_spec.ExecutionParameter(type=int),
        "decides": component_spec.ExecutionParameter(type=int),
        "code": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=tfx.types.standard_artifacts.Examples),
        "encoder": component_spec.ChannelParameter(type=tfx.types.standard_artifacts.Model),
        "start": component_spec.ChannelParameter(
            type=tfx.types.standard_artifacts.Model, optional=True
        ),
    }
    OUTPUTS = {"model": component_spec.ChannelParameter(type=tfx.types.standard_artifacts.Model)}


class LinearProbe(tfx.types.BaseComponent):
    """Linear evaluation (paper, appendix C.1) of a frozen encoder.

    The output `model` is encoder and classifier as one SavedModel; Evaluator calls its signature
    `examples`. `evaluation.json` in the same folder has kNN and linear accuracy on the eval split,
    of the encoder and of its baselines: a random encoder, raw pixels, and before them the encoder
    that training started from, if it did not start from random weights.

    Args:
        examples: Channel of transformed examples with labels and the splits train and eval.
        encoder: Channel of Trainer's model.
        start: Channel of the weights that Trainer started from, None if there are none.
        views: Random crops and flips per image to train on; 0 takes centre crops.
        decides: Whether accuracy decides on the model. If not, labels that allow no measurement,
            such as a class without a readable training image, end in a model with the property
            `unmeasured`, the reason, and without files of a classifier.
        code: Digest of the code.
    """

    SPEC_CLASS = LinearProbeSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        examples: tfx.types.BaseChannel,
        encoder: tfx.types.BaseChannel,
        start: tfx.types.BaseChannel | None,
        views: int,
        decides: bool,
        code: str,
    ):
        super().__init__(
            LinearProbeSpec(
                examples=examples,
                encoder=encoder,
                start=start,
                views=views,
                decides=int(decides),
                code=code,
                model=tfx.dsl.Channel(type=tfx.types.standard_artifacts.Model),
            )
        )

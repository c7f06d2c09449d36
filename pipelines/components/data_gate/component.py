"""DataGate: between validation and everything that costs."""

from tfx.dsl.components.base import base_component, executor_spec
from tfx.types import channel, component_spec, standard_artifacts

from pipelines.artifacts import ApprovedStatistics
from pipelines.components.data_gate import executor


class DataGateSpec(component_spec.ComponentSpec):
    """See `DataGate`."""

    PARAMETERS = {
        "stop_on": component_spec.ExecutionParameter(type=str),
        "max_drift": component_spec.ExecutionParameter(type=float),
    }
    INPUTS = {
        "statistics": component_spec.ChannelParameter(type=standard_artifacts.ExampleStatistics),
        "schema": component_spec.ChannelParameter(type=standard_artifacts.Schema),
        "anomalies": component_spec.ChannelParameter(type=standard_artifacts.ExampleAnomalies),
        "baseline": component_spec.ChannelParameter(type=ApprovedStatistics, optional=True),
    }
    OUTPUTS = {"approved": component_spec.ChannelParameter(type=ApprovedStatistics)}


class DataGate(base_component.BaseComponent):
    """Fails on anomalies of ExampleValidator, and on drift, which ExampleValidator never looks at.

    Args:
        statistics: of StatisticsGen.
        schema: what the data should be like.
        anomalies: of ExampleValidator.
        baseline: the approved statistics of the last run; without one there is no drift.
        stop_on: least severity that fails: `warning`, `error`, or `never`.
        max_drift: L-infinity distance of formats and labels, Kolmogorov-Smirnov distance of sizes,
            between the same split of both runs; in [0, 1].
    """

    SPEC_CLASS = DataGateSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        statistics: channel.BaseChannel,
        schema: channel.BaseChannel,
        anomalies: channel.BaseChannel,
        baseline: channel.BaseChannel | None = None,
        stop_on: str = "error",
        max_drift: float = 0.1,
    ):
        super().__init__(
            DataGateSpec(
                statistics=statistics,
                schema=schema,
                anomalies=anomalies,
                baseline=baseline,
                stop_on=stop_on,
                max_drift=max_drift,
                approved=channel.Channel(type=ApprovedStatistics),
            )
        )

"""DataGate: stands between validation and the expensive components."""

from tfx import v1 as tfx
from tfx.dsl.components.base import executor_spec
from tfx.types import component_spec

from pipelines.artifacts import ApprovedStatistics
from pipelines.components.data_gate import executor


class DataGateSpec(component_spec.ComponentSpec):
    """Specification of `DataGate`."""

    PARAMETERS = {
        "stop_on": component_spec.ExecutionParameter(type=str),
        "max_drift": component_spec.ExecutionParameter(type=float),
        "drift_severity": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "statistics": component_spec.ChannelParameter(
            type=tfx.types.standard_artifacts.ExampleStatistics
        ),
        "schema": component_spec.ChannelParameter(type=tfx.types.standard_artifacts.Schema),
        "anomalies": component_spec.ChannelParameter(
            type=tfx.types.standard_artifacts.ExampleAnomalies
        ),
        "baseline": component_spec.ChannelParameter(type=ApprovedStatistics, optional=True),
    }
    OUTPUTS = {"approved": component_spec.ChannelParameter(type=ApprovedStatistics)}


class DataGate(tfx.types.BaseComponent):
    """Fails on anomalies of ExampleValidator, and on drift, which ExampleValidator does not check.

    Args:
        statistics: Channel of StatisticsGen.
        schema: Channel of the schema of the data.
        anomalies: Channel of ExampleValidator.
        baseline: Channel of the last run's approved statistics; if it is empty, drift is not
            measured.
        stop_on: Lowest severity that fails: `warning`, `error`, or `never`.
        max_drift: Largest allowed distance between the same split of both runs, in [0, 1]:
            L-infinity for formats and labels, Kolmogorov-Smirnov for sizes; of channels and bits
            (L-infinity) its square.
        drift_severity: Severity of a larger distance: `warning` or `error`.
    """

    SPEC_CLASS = DataGateSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        statistics: tfx.types.BaseChannel,
        schema: tfx.types.BaseChannel,
        anomalies: tfx.types.BaseChannel,
        baseline: tfx.types.BaseChannel | None,
        stop_on: str,
        max_drift: float,
        drift_severity: str,
    ):
        super().__init__(
            DataGateSpec(
                statistics=statistics,
                schema=schema,
                anomalies=anomalies,
                baseline=baseline,
                stop_on=stop_on,
                max_drift=max_drift,
                drift_severity=drift_severity,
                approved=tfx.dsl.Channel(type=ApprovedStatistics),
            )
        )

"""Evaluator: TFX's, which does nothing if there is no classifier to evaluate."""

from tfx import v1 as tfx
from tfx.dsl.components.base import executor_spec

from pipelines.components.evaluator import executor


class Evaluator(tfx.components.Evaluator):
    """Evaluates LinearProbe's classifier, unless that could not measure accuracy."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(executor.Executor)

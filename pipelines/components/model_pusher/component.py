"""ModelPusher: TFX's Pusher with an atomic push."""

from tfx import v1 as tfx
from tfx.dsl.components.base import executor_spec

from pipelines.components.model_pusher import executor


class ModelPusher(tfx.components.Pusher):
    """Pushes a version atomically, and not if the newest version is the same model."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

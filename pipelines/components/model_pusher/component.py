"""ModelPusher: TFX's Pusher with an executor whose push is one step for who reads."""

from tfx.components.pusher.component import Pusher
from tfx.dsl.components.base import executor_spec

from pipelines.components.model_pusher import executor


class ModelPusher(Pusher):
    """As TFX's Pusher; a version appears all at once, and one that is served already stays."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

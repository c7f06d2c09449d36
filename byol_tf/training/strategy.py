"""Distribution strategies by name."""

import os

import tensorflow as tf
from absl import logging

from byol_tf.choices import STRATEGIES
from byol_tf.errors import UserError
from byol_tf.training import cluster


def build_strategy(name: str) -> tf.distribute.Strategy:
    """Returns the strategy called `name`; call it before anything else uses TensorFlow's devices.

    Args:
        name: `default` (one device), `mirrored` (all local GPUs, or all logical CPUs without a
            GPU), `multi_worker` (synchronous, the workers that `cluster` finds), `tpu` (from
            `TPU_NAME` or the local TPU), `auto` (multi_worker if the environment describes a
            cluster, else tpu if one is found, else mirrored with several GPUs, else default).

    Raises:
        UserError: The name is unknown, `tpu` finds no TPU or `multi_worker` no valid cluster.
    """
    if name not in STRATEGIES:
        raise UserError(f"strategy '{name}' is unknown; give one of {', '.join(STRATEGIES)}.")
    if name == "auto":
        name = _detect()
    if name == "default":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        return tf.distribute.MirroredStrategy(
            [d.name for d in tf.config.list_logical_devices(kind)]
        )
    if name == "multi_worker":
        return tf.distribute.MultiWorkerMirroredStrategy(cluster.resolver())
    return _tpu_strategy()


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process writes the run's files: not on workers after the first."""
    resolver = strategy.cluster_resolver
    if (
        not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        or not resolver.cluster_spec()
    ):
        return True
    if resolver.task_type == "chief":
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return not has_chief and resolver.task_type == "worker" and resolver.task_id == 0


def check_batch_size(batch_size: int, strategy: tf.distribute.Strategy) -> None:
    """Raises `UserError` unless each replica gets an equal share, of two images or more.

    Args:
        batch_size: Global batch size.
        strategy: Strategy whose replicas share it.
    """
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas or batch_size < 2 * replicas:
        raise UserError(
            f"batch_size {batch_size} cannot be shared by {replicas} replica(s); give a multiple "
            f"of {replicas}, at least {2 * replicas} (BatchNorm needs two images on each)."
        )


def _detect() -> str:
    if cluster.is_described():
        return "multi_worker"
    if tf.config.list_physical_devices("TPU") or os.environ.get("TPU_NAME"):
        return "tpu"
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "default"


def _tpu_strategy() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
    except (ValueError, tf.errors.OpError) as error:
        devices = ", ".join(d.name for d in tf.config.list_physical_devices())
        logging.debug("TPU: %s", error)
        raise UserError(
            f"strategy 'tpu' finds no TPU (devices: {devices}); set TPU_NAME or choose another "
            "strategy."
        ) from error
    return tf.distribute.TPUStrategy(resolver)

"""The cluster of hosts that this process trains with, as its scheduler describes it.

| scheduler | environment variables |
|---|---|
| any | `TF_CONFIG`, TensorFlow's own |
| SLURM | `SLURM_PROCID` and others, which `srun` sets |
| Kubernetes JobSet | `JOBSET_NAME`, `REPLICATED_JOB_NAME`, `JOB_COMPLETION_INDEX`, `WORKERS` |

`deploy/training-jobset.yaml` sets JobSet's.
"""

import contextlib
import os
from collections.abc import Iterator

import tensorflow as tf

from byol_tf.errors import UserError

_PORT = 8888  # Of the first task on a host, as TensorFlow's SlurmClusterResolver has it.
_JOBSET = ("JOBSET_NAME", "REPLICATED_JOB_NAME", "JOB_COMPLETION_INDEX", "WORKERS")


def is_described() -> bool:
    """Returns whether the environment describes a cluster of several workers."""
    if os.environ.get("TF_CONFIG"):
        return True
    workers = os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("WORKERS") or "1"
    return workers != "1" and ("SLURM_PROCID" in os.environ or "JOBSET_NAME" in os.environ)


def resolver() -> tf.distribute.cluster_resolver.ClusterResolver:
    """Returns the cluster of the environment and this process's place in it.

    Raises:
        UserError: The environment describes no cluster, or not one that has this process.
    """
    for variable, read in (
        ("TF_CONFIG", _of_tf_config),
        ("SLURM_PROCID", _of_slurm),
        ("JOBSET_NAME", _of_jobset),
    ):
        if not os.environ.get(variable):
            continue
        try:
            return read()
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"the cluster that {variable} and its like describe is not valid: {error}"
            ) from error
    raise UserError(
        "strategy 'multi_worker' finds no cluster; set TF_CONFIG, or start the workers by srun or "
        "as a Kubernetes JobSet."
    )


@contextlib.contextmanager
def lost_workers_named(run_dir: str) -> Iterator[None]:
    """Turns TensorFlow's error where another worker is lost into a `UserError`."""
    try:
        yield
    except tf.errors.OpError as error:
        if "Collective ops is aborted" not in str(error):
            raise
        raise UserError(
            "another worker, or the network to it, is lost; start the same command on all workers "
            f"again: it continues from the last checkpoint in '{run_dir}'."
        ) from error


def _of_tf_config() -> tf.distribute.cluster_resolver.ClusterResolver:
    found = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if found.task_type is None or found.task_id is None:
        raise ValueError("there is no task.")
    found.cluster_spec().task_address(found.task_type, found.task_id)
    return found


def _of_slurm() -> tf.distribute.cluster_resolver.ClusterResolver:
    # srun gives each task its GPUs. TensorFlow counts a host's ports by its GPUs, so it is told of
    # more than there can be.
    found = tf.distribute.cluster_resolver.SlurmClusterResolver(
        port_base=_PORT, gpus_per_node=10**6, gpus_per_task=1, auto_set_gpu=False
    )
    found.cluster_spec()  # Finds task_type and task_id too.
    return found


def _of_jobset() -> tf.distribute.cluster_resolver.ClusterResolver:
    missing = [name for name in _JOBSET if not os.environ.get(name)]
    if missing:
        raise ValueError(f"{', '.join(missing)} must be set as well.")
    jobset, job, index, workers = (os.environ[name] for name in _JOBSET)
    # A pod's host name: JobSet, replicated job, number of the job (one here), number of the pod.
    hosts = [f"{jobset}-{job}-0-{number}.{jobset}:{_PORT}" for number in range(int(workers))]
    spec = tf.train.ClusterSpec({"worker": hosts})
    spec.task_address("worker", int(index))
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        spec, task_type="worker", task_id=int(index), rpc_layer="grpc"
    )

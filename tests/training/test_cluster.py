"""Clusters from the variables of schedulers: who is in them and who this process is."""

import json

import pytest
import tensorflow as tf

from byol_tf.errors import UserError
from byol_tf.training import cluster, strategy

TWO = {"worker": ["a:1", "b:2"]}
SLURM = {
    "SLURM_PROCID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "node[07-08]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}
JOBSET = {
    "JOBSET_NAME": "byol",
    "REPLICATED_JOB_NAME": "workers",
    "JOB_COMPLETION_INDEX": "1",
    "WORKERS": "2",
}


@pytest.fixture
def environment(monkeypatch):
    for name in ("TF_CONFIG", *SLURM, *JOBSET):
        monkeypatch.delenv(name, raising=False)

    def set_to(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_to


@pytest.mark.parametrize(
    ("variables", "workers", "index"),
    [
        (
            {"TF_CONFIG": json.dumps({"cluster": TWO, "task": {"type": "worker", "index": 1}})},
            ["a:1", "b:2"],
            1,
        ),
        (SLURM, ["node07:8888", "node07:8889", "node08:8888", "node08:8889"], 2),
        (JOBSET, ["byol-workers-0-0.byol:8888", "byol-workers-0-1.byol:8888"], 1),
    ],
)
def test_scheduler_says_who_the_workers_are(environment, variables, workers, index):
    environment(variables)
    assert cluster.is_described()
    found = cluster.resolver()
    assert found.cluster_spec().as_dict() == {"worker": workers}
    assert (found.task_type, found.task_id) == ("worker", index)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "finds no cluster; set TF_CONFIG"),
        ({"TF_CONFIG": "{"}, "TF_CONFIG.*not valid"),
        ({"TF_CONFIG": "[]"}, "TF_CONFIG.*not valid"),
        ({"TF_CONFIG": json.dumps({"cluster": TWO})}, "there is no task"),
        (
            {"TF_CONFIG": json.dumps({"cluster": TWO, "task": {"type": "worker", "index": 2}})},
            "No task with index 2",
        ),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "5"}, "SLURM_PROCID.*5 tasks but only 4"),
        (SLURM | {"SLURM_STEP_NODELIST": ""}, "SLURM_PROCID.*not valid"),
        (JOBSET | {"JOB_COMPLETION_INDEX": "2"}, "JOBSET_NAME.*No task with index 2"),
        (JOBSET | {"WORKERS": ""}, "WORKERS must be set as well"),
    ],
)
def test_cluster_that_is_not_valid_is_named(environment, variables, message):
    environment(variables)
    with pytest.raises(UserError, match=message):
        strategy.build_strategy("multi_worker")


def test_one_task_is_no_cluster(environment):
    environment(SLURM | {"SLURM_STEP_NUM_TASKS": "1"})
    assert not cluster.is_described()


def test_other_errors_of_tensorflow_stay_as_they_are():
    error = tf.errors.InvalidArgumentError(None, None, "a bug")
    with pytest.raises(tf.errors.InvalidArgumentError), cluster.lost_workers_named("run"):
        raise error

"""Two replicas, in one process or two, train to the weights of one device with the same batch.

The tolerance is float32's over three steps: sums of 8 images in another order. Moving variances get
a wider one, as the fused kernel of a single device estimates them with N - 1 and the synchronised
one with N (N = 8·7·7 and 8·3·3 here, 8 in the heads), a Keras difference that changes no weight.
"""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import train_three_steps

from byol_tf.errors import UserError
from byol_tf.training import strategy as strategies

ATOL = 2e-5


@pytest.fixture(scope="module")
def one_device():
    return train_three_steps.train(tf.distribute.get_strategy())


def assert_same_weights(names, actual, wanted):
    for name, a, w in zip(names, actual, wanted, strict=True):
        atol = 0.08 if "moving_variance" in name else ATOL
        np.testing.assert_allclose(a, w, atol=atol, err_msg=name)


def names_of(model):
    return [weight.name for weight in model.weights]


def test_mirrored_on_two_devices_equals_one_device(one_device, two_replicas):
    assert two_replicas.num_replicas_in_sync == 2
    model = train_three_steps.train(two_replicas)
    wanted = [w.numpy() for w in one_device.weights]
    assert_same_weights(names_of(one_device), [w.numpy() for w in model.weights], wanted)
    assert int(model.step.numpy()) == 3


def test_replicas_without_synchronised_batch_norm_would_be_noticed(
    one_device, two_replicas, monkeypatch
):
    from byol_tf.models import networks

    synchronised = networks.BatchNorm.__init__

    def unsynchronised(self, **kwargs):
        synchronised(self, **kwargs)
        self.synchronized = False

    monkeypatch.setattr(networks.BatchNorm, "__init__", unsynchronised)
    model = train_three_steps.train(two_replicas)
    with pytest.raises(AssertionError):
        wanted = [w.numpy() for w in one_device.weights]
        assert_same_weights(names_of(one_device), [w.numpy() for w in model.weights], wanted)


@pytest.mark.slow
def test_two_worker_processes_equal_one_device(one_device, tmp_path):
    ports = []
    for _ in range(2):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            ports.append(s.getsockname()[1])
    workers = [f"127.0.0.1:{port}" for port in ports]
    processes = []
    for index in range(2):
        config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        command = [sys.executable, train_three_steps.__file__, str(tmp_path / f"{index}.npz")]
        environment = os.environ | {"TF_CONFIG": json.dumps(config)}
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE))
    errors = [process.communicate(timeout=600)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    wanted = [w.numpy() for w in one_device.weights]
    for index in range(2):
        saved = np.load(tmp_path / f"{index}.npz")
        assert_same_weights(names_of(one_device), [saved[name] for name in saved.files], wanted)


def test_default_is_one_replica_and_chief():
    strategy = strategies.build_strategy("default")
    assert strategy.num_replicas_in_sync == 1
    assert strategies.is_chief(strategy)


def test_auto_is_the_default_on_a_machine_without_accelerators(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if not tf.config.list_physical_devices("GPU"):
        assert strategies.build_strategy("auto").num_replicas_in_sync == 1


def test_unknown_strategy_is_named_with_the_known_ones():
    with pytest.raises(UserError, match="'horovod'.*mirrored"):
        strategies.build_strategy("horovod")


def test_tpu_that_is_not_there_gives_the_devices_seen(monkeypatch):
    monkeypatch.delenv("TPU_NAME", raising=False)
    with pytest.raises(UserError, match="no TPU.*CPU:0"):
        strategies.build_strategy("tpu")


@pytest.mark.parametrize("batch_size", [7, 2])
def test_batches_that_two_replicas_cannot_share_are_refused(batch_size, two_replicas):
    with pytest.raises(UserError, match=f"batch_size {batch_size}.*multiple of 2, at least 4"):
        strategies.check_batch_size(batch_size, two_replicas)
    strategies.check_batch_size(8, two_replicas)

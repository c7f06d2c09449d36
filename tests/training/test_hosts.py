"""Training on several hosts, which are killed and lose their network.

The hosts are network namespaces with addresses of their own, joined by a bridge; each runs
`byol-pretrain` under `tools/restart.sh`, as under a scheduler that restarts what fails.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import hosts
import numpy as np
import own_encoders
import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS_PER_EPOCH, EPOCHS = 4, 25
SENTENCE = "error: another worker, or the network to it, is lost; start the same command on all"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.exhaustive,  # Five minutes of CPU: each start of a worker traces the step again.
    pytest.mark.skipif(hosts.missing() is not None, reason=hosts.missing() or ""),
]


@pytest.fixture(scope="module")
def photos(images_dir, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, file in enumerate(sorted(images_dir.glob("train/*/*.jpg"))[: 12 * STEPS_PER_EPOCH]):
        shutil.copy(file, folder / f"{number:02d}.jpg")
    return folder


class Job:
    """A training on hosts, whose logs are `HOST.log` in its folder."""

    def __init__(
        self, network: hosts.Hosts, photos: pathlib.Path, folder: pathlib.Path, epochs: int
    ):
        self.network, self.folder, self.run_dir = network, folder, folder / "run"
        self.last_step = STEPS_PER_EPOCH * epochs
        command = [
            *(str(ROOT / "tools" / "restart.sh"), "8"),
            *(sys.executable, "-m", "byol_tf.cli.pretrain", "--config=cifar10_demo:smoke"),
            *("--config.precision=float32", f"--config.epochs={epochs}"),
            *("--config.batch_size=12", "--config.checkpoint_every_steps=2"),
            *("--config.knn_every_epochs=0", f"--config.encoder.name={own_encoders.__name__}.tiny"),
            *(f"--data_dir={photos}", f"--run_dir={self.run_dir}"),
        ]
        cluster = {"worker": [f"{address}:2222" for address in network.addresses]}
        paths = os.pathsep.join([str(ROOT), str(pathlib.Path(own_encoders.__file__).parent)])
        self.workers = []
        for number in range(len(network.addresses)):
            task = {"cluster": cluster, "task": {"type": "worker", "index": number}}
            environment = os.environ | {"PYTHONPATH": paths, "TF_CONFIG": json.dumps(task)}
            with open(folder / f"{number}.log", "w") as log:
                self.workers.append(
                    subprocess.Popen(
                        network.command(number, command),
                        env=environment,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )

    def steps(self) -> int:
        """Returns the step of the last whole checkpoint."""
        files = self.run_dir.glob("checkpoints/ckpt-*.index")
        return max((int(file.stem.removeprefix("ckpt-")) for file in files), default=0)

    def wait_for_step(self, step: int) -> None:
        """Waits for a checkpoint of `step` or a later one."""
        _wait(lambda: self.steps() >= step, "checkpoint", self)

    def wait_for_sentence(self, number: int) -> None:
        """Waits until the command of a host has ended with the sentence about a lost worker."""
        _wait(lambda: SENTENCE in self.log(number), "error", self, seconds=120)

    def kill(self, number: int) -> None:
        """Kills the training of a host with SIGKILL, not its supervisor."""
        supervisor = self.workers[number].pid
        children = pathlib.Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text()
        os.kill(int(children.split()[0]), signal.SIGKILL)

    def log(self, number: int) -> str:
        """Returns what the command on a host has written."""
        return (self.folder / f"{number}.log").read_text()

    def finish(self) -> dict[str, np.ndarray]:
        """Waits for success on all hosts; returns the variables of the last checkpoint."""
        _wait(lambda: all(worker.poll() is not None for worker in self.workers), "end", self)
        assert [worker.returncode for worker in self.workers] == [0] * len(self.workers)
        assert self.steps() == self.last_step
        reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(self.run_dir / "checkpoints"))
        shapes = reader.get_variable_to_shape_map()
        # save_counter counts the attempts as well.
        names = [name for name in shapes if "VARIABLE_VALUE" in name]
        return {name: reader.get_tensor(name) for name in names if "save_counter" not in name}


def _wait(condition, what: str, job: Job, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        logs = "\n".join(job.log(number)[-1500:] for number in range(len(job.workers)))
        assert time.monotonic() < end, f"no {what} after {seconds} s:\n{logs}"
        time.sleep(0.05)


@contextlib.contextmanager
def started(
    count: int, photos: pathlib.Path, folder: pathlib.Path, epochs: int = EPOCHS
) -> Iterator[Job]:
    """Yields a training on `count` hosts, which ends with the block."""
    folder.mkdir()
    with hosts.started(count) as network:
        job = Job(network, photos, folder, epochs)
        try:
            yield job
        finally:
            for worker in job.workers:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()


@pytest.fixture(scope="module")
def uninterrupted(photos, tmp_path_factory) -> dict[str, np.ndarray]:
    with started(2, photos, tmp_path_factory.mktemp("uninterrupted") / "job") as job:
        return job.finish()


def assert_equal_bits(variables, wanted):
    assert variables.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(variables[name], value, name)


@pytest.mark.parametrize("killed", [1, 0])
def test_killed_worker_or_chief_costs_a_restart_and_no_bit(killed, photos, uninterrupted, tmp_path):
    with started(2, photos, tmp_path / "job") as job:
        job.wait_for_step(3 * STEPS_PER_EPOCH + 2)
        job.kill(killed)
        job.wait_for_sentence(1 - killed)
        assert job.steps() < job.last_step
        assert_equal_bits(job.finish(), uninterrupted)
        assert "Traceback" not in job.log(1 - killed)


def test_cut_link_ends_both_workers_with_a_sentence_not_in_a_hang(photos, uninterrupted, tmp_path):
    with started(2, photos, tmp_path / "job") as job:
        job.wait_for_step(3 * STEPS_PER_EPOCH + 2)
        job.network.cut(1)
        time.sleep(30)
        job.network.join(1)
        for number in range(2):
            job.wait_for_sentence(number)
        assert_equal_bits(job.finish(), uninterrupted)


@pytest.mark.parametrize("count", [2, 3])
def test_hosts_give_the_weights_of_one_device(count, photos, tmp_path):
    with started(1, photos, tmp_path / "one", epochs=5) as job:
        one = job.finish()
    with started(count, photos, tmp_path / "several", epochs=5) as job:
        several = job.finish()
    assert several.keys() == one.keys()
    for name, value in one.items():
        if "_metric/" in name:  # Sums over replicas, of which each measures its own images.
            continue
        # Sums over replicas have another order; over many more steps the rounding would grow.
        np.testing.assert_allclose(several[name], value, rtol=2e-3, atol=2e-4, err_msg=name)

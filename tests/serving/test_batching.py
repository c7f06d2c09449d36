"""Cross-request batching in a servable, compared with the same model without batching."""

import threading
import time
from concurrent import futures

import numpy as np
import pytest
import tensorflow as tf

from serving.errors import UserError
from serving.local_server import loading
from serving.local_server.batching import Batching
from serving.local_server.servable import Servable
from serving.local_server.status import Code, StatusError


@pytest.fixture(scope="module")
def counting_dir(tmp_path_factory):
    """A model that returns, for each row, how many rows ran with it; `x` below 0 is an error."""
    path = tmp_path_factory.mktemp("counting")

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32, "x")])
    def function(x):
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(x >= 0), ["negative"])]):
            rows = tf.fill([tf.shape(x)[0]], tf.shape(x)[0])
            return {"double": 2 * x, "rows": rows}

    tf.saved_model.save(tf.Module(), str(path), signatures=function)
    return str(path)


def batched(path, **parameters):
    defaults = {"max_batch_size": 8, "batch_timeout_micros": 2_000_000, "num_batch_threads": 1}
    return Servable(path, Batching(**(defaults | parameters)))


def together(servable, inputs):
    """Runs each input in a thread of its own; returns results or errors in order."""

    def run(value):
        try:
            return servable.run("serving_default", {"x": np.asarray(value, np.float32)}, timeout=20)
        except StatusError as error:
            return error

    with futures.ThreadPoolExecutor(len(inputs)) as pool:
        return list(pool.map(run, inputs))


def test_requests_that_wait_run_as_one_batch(counting_dir):
    servable = batched(counting_dir)
    results = together(servable, [[[i, i + 1]] for i in range(8)])
    assert [result["rows"].tolist() for result in results] == [[8]] * 8
    assert [result["double"].tolist() for result in results] == [
        [[2 * i, 2 * i + 2]] for i in range(8)
    ]
    servable.close()


def test_each_request_gets_its_own_rows(counting_dir):
    servable = batched(counting_dir, max_batch_size=64, batch_timeout_micros=1000)
    rng = np.random.default_rng(0)
    inputs = [rng.uniform(size=(rng.integers(1, 6), 3)) for _ in range(200)]
    for value, result in zip(inputs, together(servable, inputs), strict=True):
        np.testing.assert_array_equal(result["double"], 2 * value.astype(np.float32))
    servable.close()


def test_a_batch_is_padded_to_an_allowed_size(counting_dir):
    servable = batched(counting_dir, allowed_batch_sizes=(2, 8), batch_timeout_micros=1000)
    (result,) = together(servable, [[[1.0], [2.0], [3.0]]])
    assert result["rows"].tolist() == [8, 8, 8] and result["double"].tolist() == [[2], [4], [6]]
    servable.close()


def test_one_bad_request_does_not_fail_its_neighbours(counting_dir):
    servable = batched(counting_dir)
    results = together(servable, [[[i]] for i in range(7)] + [[[-1]]])
    assert [result["double"].tolist() for result in results[:7]] == [[[2 * i]] for i in range(7)]
    assert results[7].code == Code.INVALID_ARGUMENT and "negative" in results[7].message
    servable.close()


def test_requests_of_other_shapes_do_not_fail_each_other(counting_dir):
    servable = batched(counting_dir)
    results = together(servable, [np.ones([1, width]) for width in range(1, 9)])
    assert [result["double"].shape for result in results] == [(1, width) for width in range(1, 9)]
    servable.close()


def test_a_request_above_the_batch_size_is_refused(counting_dir):
    servable = batched(counting_dir)
    (error,) = together(servable, [np.ones([9, 1])])
    servable.close()
    assert error.code == Code.INVALID_ARGUMENT
    assert error.message == "Task size 9 is larger than maximum input batch size 8"


def test_a_large_request_is_split_where_that_is_asked_for(counting_dir):
    servable = batched(
        counting_dir,
        max_batch_size=32,
        allowed_batch_sizes=(8,),
        enable_large_batch_splitting=True,
        batch_timeout_micros=1000,
    )
    (answer,) = together(servable, [np.arange(20.0).reshape(20, 1)])
    servable.close()
    assert answer["double"].ravel().tolist() == [2 * i for i in range(20)]
    assert max(answer["rows"]) == 8


def test_an_empty_request_is_answered(counting_dir):
    servable = batched(counting_dir)
    (result,) = together(servable, [np.ones([0, 3])])
    assert result["double"].shape == (0, 3)
    servable.close()


def test_a_full_queue_is_unavailable(models_dir):
    servable = Servable(
        str(models_dir / "echo" / "1"),
        Batching(
            max_batch_size=1, max_enqueued_batches=1, num_batch_threads=1, batch_timeout_micros=0
        ),
    )
    codes = []

    def run():
        try:
            servable.run("slow", {"seconds": np.array([1.0], np.float32)}, timeout=30)
            codes.append(Code.OK)
        except StatusError as error:
            codes.append(error.code)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    servable.close()
    assert set(codes) == {Code.OK, Code.UNAVAILABLE}


def test_a_deadline_ends_the_wait_in_the_queue(counting_dir):
    servable = batched(counting_dir, batch_timeout_micros=3_000_000)
    begin = time.monotonic()
    with pytest.raises(StatusError) as caught:
        servable.run("serving_default", {"x": np.ones([1, 1], np.float32)}, timeout=0.3)
    assert caught.value.code == Code.DEADLINE_EXCEEDED
    assert time.monotonic() - begin < 10
    servable.close()


def test_closing_frees_the_batching_threads(counting_dir):
    def threads():
        with open("/proc/self/status") as file:
            return int(next(line for line in file if line.startswith("Threads")).split()[1])

    def load_and_close():
        servable = batched(counting_dir, num_batch_threads=4, batch_timeout_micros=1000)
        together(servable, [[[1.0]]])
        servable.close()

    load_and_close()
    before = threads()
    for _ in range(5):
        load_and_close()
    assert threads() <= before + 4


@pytest.mark.slow
def test_memory_comes_back_after_unloading(encoder_dir):
    def resident_mib():
        with open("/proc/self/status") as file:
            return int(next(line for line in file if line.startswith("VmRSS")).split()[1]) / 1024

    memory = []
    for _ in range(5):
        loading.load(str(encoder_dir / "1"), Batching(max_batch_size=8)).close()
        memory.append(resident_mib())
    assert memory[-1] - memory[1] < 80, memory


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_batch_size": 0},
        {"num_batch_threads": 0},
        {"batch_timeout_micros": -1},
        {"max_batch_size": 8, "allowed_batch_sizes": (4,)},
        {"max_batch_size": 8, "allowed_batch_sizes": (8, 4)},
        {"max_batch_size": 8, "allowed_batch_sizes": (4, 16), "enable_large_batch_splitting": True},
    ],
)
def test_parameters_out_of_range_are_a_sentence(parameters):
    with pytest.raises(UserError, match="batching parameters"):
        Batching(**parameters)

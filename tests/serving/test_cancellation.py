"""Runs of a servable that another thread cancels."""

import threading
import time

import numpy as np
import pytest

from serving.local_server import cancellation
from serving.local_server.cancellation import Cancellation
from serving.local_server.servable import Servable
from serving.local_server.status import Code, StatusError


@pytest.fixture(scope="module")
def echo(models_dir):
    servable = Servable(str(models_dir / "echo" / "1"))
    yield servable
    servable.close()


def slow(servable, seconds, cancel):
    """Runs `slow` and returns the status code."""
    try:
        inputs = {"seconds": np.array([seconds], np.float32)}
        servable.run("slow", inputs, timeout=300, cancellation=cancel)
    except StatusError as error:
        return error.code
    return Code.OK


def test_a_cancelled_run_ends_and_its_neighbour_goes_on(echo):
    codes, cancels = {}, [Cancellation(), Cancellation()]
    seconds = [600, 3]

    def run(i):
        codes[i] = slow(echo, seconds[i], cancels[i])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    begin = time.monotonic()
    cancels[0].cancel()
    for thread in threads:
        thread.join(60)
    assert codes == {0: Code.CANCELLED, 1: Code.OK}
    assert time.monotonic() - begin < 30


def test_a_request_cancelled_before_its_run_does_not_run(echo):
    cancel = Cancellation()
    cancel.cancel()
    assert slow(echo, 600, cancel) == Code.CANCELLED


def test_answers_and_errors_stay_the_same_and_switches_are_used_again(echo):
    a, b = np.array([[1.0, 2.0]], np.float32), np.array([b"x"], object)
    for number in range(3 * cancellation._RUNS):
        cancel = Cancellation()
        with pytest.raises(StatusError) as caught:
            echo.run("two", {"a": np.float32(1), "b": b}, cancellation=cancel)
        assert caught.value.code == Code.INVALID_ARGUMENT and "cancel" not in caught.value.message
        for outputs in ((), ("text",)):
            answer = echo.run("two", {"a": a, "b": b}, outputs, cancellation=cancel)
            assert answer["text"].tolist() == [b"x"]
        assert answer.keys() == {"text"} and "sum" in echo.run("two", {"a": a, "b": b})
        cancel.cancel()  # Too late to matter.
        if number % 4 == 0:
            inputs = {"seconds": np.array([600], np.float32)}
            with pytest.raises(StatusError) as caught:
                echo.run("slow", inputs, timeout=0.1, cancellation=Cancellation())
            assert caught.value.code == Code.DEADLINE_EXCEEDED


def test_a_cancel_at_any_moment_leaves_nothing_behind(echo):
    """The value that stops a run must not stop the next one that uses the same queue."""
    value = np.ones([3], np.float32)
    for number in range(400):
        cancel = Cancellation()
        timer = threading.Timer((number % 20) * 5e-5, cancel.cancel)
        timer.start()
        try:
            answer = echo.run("float", {"value": value}, cancellation=cancel)
            np.testing.assert_array_equal(answer["value"], value)
        except StatusError as error:
            assert error.code == Code.CANCELLED
        timer.join()
        echo.run("float", {"value": value}, cancellation=Cancellation())

"""Stops a run of a session whose client has gone.

A TensorFlow session ends a run early at its deadline only. So a run that may be cancelled has one
more operation, which takes a value from a queue for each output: it is put there once that output
is computed. Closing the queue makes this operation fail, and with it the whole run. That happens in
the thread that closes it: TensorFlow's own may all be busy with the run.
"""

import collections
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from serving.local_server.status import Code, StatusError

v1 = tf.compat.v1

# Runs at a time that can be cancelled, in each model; others wait. TF Serving has as many threads.
_RUNS = 4 * (os.cpu_count() or 1)
# A closed queue cannot be opened, only replaced. The thread that put the last value may still be in
# the queue's code when the run is over, so a queue is replaced only after it has rested.
_QUEUES = 512 + _RUNS
_REST_SECONDS = 0.5
_IN_THIS_THREAD = config_pb2.RunOptions(inter_op_thread_pool=-1)


class Cancellation:
    """Whether a request is still wanted. One thread runs it, and any other may cancel it."""

    def __init__(self):
        self._lock = threading.Lock()
        self._cancelled = False
        self._code = Code.CANCELLED
        self._stop: Callable[[], None] | None = None

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    def cancel(self, code: Code = Code.CANCELLED) -> None:
        """Stops the request's run, if there is one now, and lets no other begin.

        Args:
            code: Why it is not wanted: its client has gone, or has got DEADLINE_EXCEEDED.
        """
        with self._lock:
            self._cancelled, self._code = True, code
            if self._stop:
                self._stop()

    @contextlib.contextmanager
    def stopping(self, stop: Callable[[], None]) -> Iterator[None]:
        """Calls `stop` if the request is cancelled during the block.

        Raises:
            StatusError: The code of `cancel` if the request was cancelled before, or if the block
                fails because of it.
        """
        with self._lock:
            self._check()
            self._stop = stop
        try:
            yield
        except tf.errors.OpError:
            self._check()
            raise
        finally:
            with self._lock:
                self._stop = None

    def _check(self) -> None:
        if self._cancelled:
            raise StatusError(self._code, "The call was cancelled.")


class StopSwitches:
    """Operations in the graph of a session that let its runs be cancelled.

    Args:
        session: Session whose graph is the default graph and not finalized; the graph gets the
            operations.
        outputs: Names of all tensors and operations that runs may fetch.
    """

    def __init__(self, session: tf.compat.v1.Session, outputs: Iterable[str]):
        self._session = session
        kind = [tf.bool]
        with tf.device("/CPU:0"):
            queues = [
                tf.raw_ops.FIFOQueueV2(component_types=kind, shapes=[[]], shared_name=f"stop_{i}")
                for i in range(_QUEUES)
            ]
            self._handles = [tf.raw_ops.SerializeTensor(tensor=handle) for handle in queues]
            # One set of operations for all queues, so that TensorFlow prepares each signature once.
            self._handle = v1.placeholder(tf.string, [])
            self._count = v1.placeholder(tf.int32, [])
            handle = tf.ensure_shape(tf.io.parse_tensor(self._handle, tf.resource), [])
            self._wait = tf.raw_ops.QueueDequeueManyV2(
                handle=handle, n=self._count, component_types=kind
            )[0].op
            self._done = {}
            for name in sorted(set(outputs)):
                with tf.control_dependencies([session.graph.as_graph_element(name)]):
                    self._done[name] = tf.raw_ops.QueueEnqueueV2(handle=handle, components=[True])
            self._close = tf.raw_ops.QueueCloseV2(handle=handle, cancel_pending_enqueues=True)
            self._size = tf.raw_ops.QueueSizeV2(handle=handle)
            self._destroy = tf.raw_ops.DestroyResourceOp(resource=handle)
        self._lock = threading.Lock()
        self._runs = threading.BoundedSemaphore(_RUNS)
        self._open = collections.deque(range(_QUEUES))
        self._closed: collections.deque[tuple[float, int]] = collections.deque()

    def open(self) -> None:
        """Creates the queues; called once, when the graph is complete."""
        # A handle still names its queue after the queue was destroyed and created again.
        self._names = [np.array(name, object) for name in self._session.run(self._handles)]

    @contextlib.contextmanager
    def armed(
        self, cancellation: Cancellation, outputs: Sequence[str], timeout: float | None
    ) -> Iterator[tuple[dict[tf.Tensor, np.ndarray], list[tf.Operation]]]:
        """Lends what one run needs, besides its own feeds and fetches, to be cancelled.

        Args:
            cancellation: Cancellation of the request.
            outputs: Names of the tensors that the run fetches.
            timeout: Seconds to wait while too many others run, or None for no limit.

        Yields:
            Values to feed by placeholder, and operations to run.

        Raises:
            StatusError: CANCELLED if the request was or is cancelled; DEADLINE_EXCEEDED if too
                many others were running.
        """
        if not self._runs.acquire(timeout=timeout):
            raise StatusError(
                Code.DEADLINE_EXCEEDED, "Deadline exceeded while other requests were running."
            )
        try:
            number = self._take()
            feed = {self._handle: self._names[number]}
            count = {self._count: np.array(len(outputs), np.int32)}
            try:
                with cancellation.stopping(lambda: self._run(self._close, feed)):
                    yield feed | count, [self._wait, *(self._done[name] for name in outputs)]
            except BaseException:
                if not cancellation.cancelled and (left := self._run(self._size, feed)):
                    self._run(self._wait, feed | {self._count: left})
                raise
            finally:
                if cancellation.cancelled:
                    self._closed.append((time.monotonic(), number))
                else:
                    self._open.append(number)
        finally:
            self._runs.release()

    def _take(self) -> int:
        """Returns the number of an open queue; if there is none, replaces those that rested."""
        with self._lock:
            if not self._open:
                time.sleep(max(0.0, self._closed[0][0] + _REST_SECONDS - time.monotonic()))
                now = time.monotonic()
                while self._closed and self._closed[0][0] + _REST_SECONDS <= now:
                    number = self._closed.popleft()[1]
                    self._run(self._destroy, {self._handle: self._names[number]})
                    self._open.append(number)
                self._session.run(self._handles, options=_IN_THIS_THREAD)
            return self._open.popleft()

    def _run(self, fetch: tf.Tensor | tf.Operation, feed: dict[tf.Tensor, np.ndarray]):
        return self._session.run(fetch, feed, options=_IN_THIS_THREAD)

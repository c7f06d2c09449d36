"""One loaded version of a model: a SavedModel in its own session, as in TF Serving.

A session instead of `tf.saved_model.load`: it runs tensors by name as the protocol asks, takes a
deadline, reports the same errors as TF Serving (both come from the runtime), and frees everything
when it is closed.
"""

import contextlib
import ctypes
import functools
import gc
import os
import threading
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2

# The C API's run. Session.run, which wraps it, checks shapes (TF Serving leaves that to the graph),
# converts types, and takes longer than a small model.
from tensorflow.python.client import pywrap_tf_session

from serving.local_server.batching import Batching, batched
from serving.local_server.cancellation import Cancellation, StopSwitches
from serving.local_server.request_limits import check_shape
from serving.local_server.status import Code, StatusError, as_status, invalid
from serving.local_server.tensors import type_name

v1 = tf.compat.v1

# Loading builds Python graphs and keeps one core busy; two loads at a time gain nothing.
_LOADING = threading.Lock()
# Errors that another request of the same batch can cause. A full queue and a missed deadline are
# the request's own.
_MAYBE_A_NEIGHBOURS = (tf.errors.InvalidArgumentError, tf.errors.FailedPreconditionError)


class Servable:
    """A loaded SavedModel that runs its signatures.

    Args:
        path: Folder of the SavedModel.
        batching: Parameters of batching across requests, or None for no batching.

    Attributes:
        signatures: Signatures by name.

    Raises:
        StatusError: The SavedModel does not load; NOT_FOUND if `path` holds none.
    """

    def __init__(self, path: str, batching: Batching | None = None):
        if not os.path.exists(os.path.join(path, "saved_model.pb")):
            raise StatusError(
                Code.NOT_FOUND,
                f"Could not find SavedModel .pb at supplied export directory path: {path}",
            )
        graph = tf.Graph()
        self._max_batch_size = batching.max_batch_size if batching else 0
        self._session = v1.Session(graph=graph)
        try:
            with _LOADING, graph.as_default():
                meta_graph = v1.saved_model.loader.load(self._session, ["serve"], path)
                self.signatures: dict[str, meta_graph_pb2.SignatureDef] = dict(
                    meta_graph.signature_def
                )
                self._batched = {
                    name: batched(graph, signature, batching)
                    for name, signature in self.signatures.items()
                    if batching and signature.inputs and signature.outputs
                }
                self._switches = StopSwitches(
                    self._session,
                    [
                        info.name
                        for signature in self.signatures.values()
                        for info in signature.outputs.values()
                    ],
                )
            graph.finalize()
            self._switches.open()
        except Exception as error:
            self._session.close()
            raise as_status(error) from error
        # Bounded: clients may ask for any combination of outputs.
        self._ends = functools.lru_cache(maxsize=64)(self._find_ends)

    def signature(self, name: str) -> meta_graph_pb2.SignatureDef | None:
        """Returns the signature of that name, or None; an empty name means `serving_default`."""
        return self.signatures.get(name or "serving_default")

    def run(
        self,
        signature_name: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str] = (),
        timeout: float | None = None,
        cancellation: Cancellation | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs a signature.

        Args:
            signature_name: Name of a signature that exists.
            inputs: Value of each input by name.
            outputs: Names of the outputs to compute; all if empty.
            timeout: Seconds within which the run must finish, or None for no limit.
            cancellation: Cancellation of the request, or None. A batch is not stopped: other
                requests wait for it, and its size is limited.

        Returns:
            Outputs by name.

        Raises:
            StatusError: The runtime's error; INVALID_ARGUMENT for a wrong type or from
                `check_shape`, before the run; DEADLINE_EXCEEDED after the timeout; CANCELLED.
        """
        signature = self.signatures[signature_name]
        _check_types(signature, inputs)
        for name, info in signature.inputs.items():
            check_shape(name, info, inputs[name].shape)
        outputs = tuple(sorted(outputs or signature.outputs))
        if timeout is not None and timeout <= 0:
            raise StatusError(
                Code.DEADLINE_EXCEEDED, "Deadline exceeded before the request could run."
            )
        values = [inputs[name] for name in sorted(signature.inputs)]
        try:
            if signature_name in self._batched and all(value.size for value in values):
                self._check_size(values)
                try:
                    results = self._run(self._ends(signature_name, outputs, True), values, timeout)
                except _MAYBE_A_NEIGHBOURS:
                    # One bad image fails its whole batch; run again alone, only its request fails.
                    results = self._run_alone(
                        signature_name, outputs, values, timeout, cancellation
                    )
            else:
                results = self._run_alone(signature_name, outputs, values, timeout, cancellation)
        except tf.errors.OpError as error:
            raise as_status(error) from error
        # A string of rank 0 is returned as bytes.
        results = [
            np.array(result, object) if isinstance(result, bytes) else result for result in results
        ]
        return dict(zip(outputs, results, strict=True))

    def _run_alone(
        self,
        signature_name: str,
        outputs: tuple[str, ...],
        values: list[np.ndarray],
        timeout: float | None,
        cancellation: Cancellation | None,
    ) -> list:
        """Runs a signature outside of any batch, so that the run can be cancelled."""
        ends = self._ends(signature_name, outputs, False)
        if cancellation is None:
            return self._run(ends, values, timeout)
        tensors = [self.signatures[signature_name].outputs[name].name for name in outputs]
        with self._switches.armed(cancellation, tensors, timeout) as (feed, operations):
            return self._run(ends, values, timeout, feed, operations)

    def _run(
        self,
        ends: tuple[list, list],
        values: list[np.ndarray],
        timeout: float | None,
        more: Mapping[tf.Tensor, np.ndarray] | None = None,
        operations: Sequence[tf.Operation] = (),
    ) -> list:
        """Runs the session; `more` is fed too, and `operations` run without a result."""
        feeds, fetches = ends
        feed = dict(zip(feeds, values, strict=True))
        feed |= {tensor._as_tf_output(): value for tensor, value in (more or {}).items()}
        targets = [operation._c_op for operation in operations]

        def run(options) -> list:
            return pywrap_tf_session.TF_SessionRun_wrapper(
                self._session._session, options, feed, fetches, targets, None
            )

        if timeout is None:
            return run(None)
        milliseconds = max(1, int(timeout * 1000))
        options = config_pb2.RunOptions(timeout_in_ms=milliseconds).SerializeToString()
        buffer = pywrap_tf_session.TF_NewBufferFromString(options)
        try:
            return run(buffer)
        finally:
            pywrap_tf_session.TF_DeleteBuffer(buffer)

    def close(self) -> None:
        """Frees variables, tables and batching threads; `run` must not be called afterwards."""
        self._session.close()
        # The graph's Python objects form cycles, and glibc keeps freed memory in pieces too small
        # for the next version: without collect and trim, each swap of versions costs 25 MB.
        del self._session, self._batched, self._ends, self._switches
        gc.collect()
        with contextlib.suppress(AttributeError):  # Other C libraries have no malloc_trim.
            ctypes.CDLL(None).malloc_trim(0)

    def _check_size(self, values: Sequence[np.ndarray]) -> None:
        # BatchFunction would refuse it too, but `run` would then retry the request alone.
        size = max(len(value) if value.ndim else 0 for value in values)
        if size > self._max_batch_size:
            raise invalid(
                f"Task size {size} is larger than maximum input batch size {self._max_batch_size}"
            )

    def _find_ends(
        self, signature_name: str, outputs: tuple[str, ...], batch: bool
    ) -> tuple[list, list]:
        """Returns where to feed, in order of the inputs' names, and where to fetch."""
        if batch:
            feeds, fetches = self._batched[signature_name]
        else:
            signature = self.signatures[signature_name]
            tensor = self._session.graph.get_tensor_by_name
            feeds = {name: tensor(info.name) for name, info in signature.inputs.items()}
            fetches = {name: tensor(signature.outputs[name].name) for name in outputs}
        return (
            [feeds[name]._as_tf_output() for name in sorted(feeds)],
            [fetches[name]._as_tf_output() for name in outputs],
        )


def _check_types(signature: meta_graph_pb2.SignatureDef, inputs: Mapping[str, np.ndarray]) -> None:
    for position, name in enumerate(sorted(signature.inputs)):
        expected = tf.as_dtype(signature.inputs[name].dtype)
        given = tf.string if inputs[name].dtype == object else tf.as_dtype(inputs[name].dtype)
        if given != expected:
            raise invalid(
                f"Expects arg[{position}] to be {type_name(expected)} but {type_name(given)} "
                "is provided"
            )

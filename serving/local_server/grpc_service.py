"""The gRPC side: PredictionService, ModelService, health and, if asked for, reflection.

Predictions run in a pool of threads, and status calls outside it, so that a busy server still
reports its state. A client that opens a stream and hangs holds no thread; one that goes away while
its prediction runs stops it.
"""

import asyncio
import contextlib
import functools
import importlib
from collections.abc import Callable
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection as grpc_reflection
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving.errors import UserError
from serving.local_server import calls, metrics
from serving.local_server.cancellation import Cancellation
from serving.local_server.connection_limit import connection_limit
from serving.local_server.model_store import ModelStore
from serving.local_server.status import reported

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_LONGEST_MESSAGE = 1024  # Characters; TF Serving's grpc_status_util.cc.
_OPTIONS = {
    # TF Serving's limit: the largest possible protobuf message.
    "grpc.max_receive_message_length": 2**31 - 1,
    "grpc.max_send_message_length": 2**31 - 1,
    # Otherwise a second server on the same port would take half of the requests.
    "grpc.so_reuseport": 0,
    "grpc.max_allowed_incoming_connections": connection_limit(),
    # A client has these times to speak HTTP/2 and between two calls; then its connection closes.
    "grpc.server_handshake_timeout_ms": 20_000,
    "grpc.max_connection_idle_ms": 300_000,
}
_PREDICTION, _MODEL = "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"
_SERVICES = (_PREDICTION, _MODEL, health.SERVICE_NAME)
_OURS = (f"/{_PREDICTION}/", f"/{_MODEL}/")  # Calls that health and reflection do not answer.


def _register_descriptors() -> None:
    """Registers the services' descriptors, so that reflection finds them.

    The service modules of tensorflow-serving-api are older than protobuf's C implementation: they
    register their file and then fail to set an option on it.
    """
    for name in ("prediction_service_pb2", "model_service_pb2"):
        with contextlib.suppress(AttributeError):
            importlib.import_module(f"tensorflow_serving.apis.{name}")


class GrpcServer:
    """A gRPC server that listens until it is drained.

    Args:
        store: Store of the models.
        address: Address to listen on, "HOST:PORT".
        max_threads: Calls that run at the same time; others wait.
        credentials: Credentials for TLS, or None for plain text.
        options: Channel arguments by name; they override the defaults.
        default_timeout: Seconds for a call whose client sets no deadline, or None for no limit.
        allow_reload_config: Whether clients may replace the config of the models.
        reflection: Whether clients may ask for the services and their messages.

    Raises:
        UserError: The server cannot listen on the address.
    """

    def __init__(
        self,
        store: ModelStore,
        address: str,
        max_threads: int,
        credentials: grpc.ServerCredentials | None = None,
        options: dict[str, int | str] | None = None,
        *,
        default_timeout: float | None = None,
        allow_reload_config: bool = False,
        reflection: bool = False,
    ):
        self._pool = futures.ThreadPoolExecutor(max_threads, "grpc")
        self._drain = _Drain()
        self._server = grpc.aio.server(
            interceptors=[_NoMessage(), self._drain],
            options=list((_OPTIONS | (options or {})).items()),
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            _PredictionService(store, self._pool, default_timeout), self._server
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            _ModelService(store, allow_reload_config), self._server
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if reflection:
            _register_descriptors()
            names = (*_SERVICES, grpc_reflection.SERVICE_NAME)
            grpc_reflection.enable_server_reflection(names, self._server)
        try:
            if credentials:
                self._server.add_secure_port(address, credentials)
            else:
                self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise UserError(
                f"cannot listen on {address} for gRPC ({error}); give another --port or --host."
            ) from error

    async def start(self) -> None:
        """Starts to answer."""
        await self._server.start()
        # TF Serving's health service knows the last two names.
        for name in ("", *_SERVICES, "PredictionService", "ModelService"):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def drain(self, seconds: float) -> None:
        """Reports NOT_SERVING, refuses new calls, and waits up to `seconds` for running ones.

        The port stays open, so that new calls get UNAVAILABLE, until the process ends.
        """
        await self._health.enter_graceful_shutdown()
        await self._drain.wait(seconds)
        self._pool.shutdown(wait=False, cancel_futures=True)


async def _answer(pool: futures.Executor | None, context: grpc.aio.ServicerContext, call: Callable):
    """Runs a call in the pool and returns its result; aborts with a gRPC status if it fails."""
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, call)
    except Exception as error:
        status = reported(error)
        message = status.message
        if len(message) > _LONGEST_MESSAGE:
            message = message[:_LONGEST_MESSAGE] + "...TRUNCATED"
        await context.abort(_CODES[status.code], message)


def _remaining(
    context: grpc.aio.ServicerContext, default: float | None
) -> Callable[[], float | None]:
    """Returns a function that tells the seconds left of the client's deadline, or of `default`.

    It is called when a thread takes up the call, which may be long after the call arrived.
    """
    loop = asyncio.get_running_loop()
    remaining = context.time_remaining()
    if remaining is None:
        remaining = default
    end = None if remaining is None else loop.time() + remaining
    return lambda: None if end is None else end - loop.time()


class _NoMessage(grpc.aio.ServerInterceptor):
    """Answers bytes that are not a message with INTERNAL, as gRPC does in C++.

    grpc.aio would treat them as a bug of this server: UNKNOWN, and a trace in the log.
    """

    async def intercept_service(self, continuation, handler_call_details):
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler

        def parse(content: bytes):
            try:
                return handler.request_deserializer(content)
            except Exception as error:  # DecodeError; its class depends on protobuf.
                return error

        async def answer(request, context):
            if isinstance(request, Exception):
                await context.abort(
                    grpc.StatusCode.INTERNAL, f"Failed to parse the request: {request}"
                )
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(answer, parse, handler.response_serializer)


class _Drain(grpc.aio.ServerInterceptor):
    """Counts the running calls of our own services; refuses new ones once the drain has begun.

    With `stop` of grpc.aio, calls that arrive just then get CANCELLED, which no client repeats.
    """

    def __init__(self):
        self._begun = False
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def intercept_service(self, continuation, handler_call_details):
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(_OURS):
            return handler

        async def answer(request, context):
            if self._begun:
                await context.abort(
                    grpc.StatusCode.UNAVAILABLE,
                    "The server is stopping; send the call to another one, or again later.",
                )
            self._running += 1
            self._idle.clear()
            context.add_done_callback(self._end)
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(
            answer, handler.request_deserializer, handler.response_serializer
        )

    def _end(self, _) -> None:
        self._running -= 1
        if not self._running:
            self._idle.set()

    async def wait(self, seconds: float) -> None:
        """Begins the drain and waits up to `seconds` until no call is running."""
        self._begun = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, store: ModelStore, pool: futures.Executor, default_timeout: float | None):
        self._store = store
        self._pool = pool
        self._default_timeout = default_timeout

    async def Predict(self, request, context):
        cancellation = Cancellation()
        method = functools.partial(calls.predict, cancellation=cancellation)
        try:
            return await self._run(method, "Predict", request, context)
        except asyncio.CancelledError:  # The client has gone, or its deadline has passed.
            # In a thread, because it waits for TensorFlow.
            asyncio.get_running_loop().run_in_executor(None, cancellation.cancel)
            raise

    async def Classify(self, request, context):
        return await self._run(calls.classify, "Classify", request, context)

    async def Regress(self, request, context):
        return await self._run(calls.regress, "Regress", request, context)

    async def MultiInference(self, request, context):
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED,
            "byol-serve has no MultiInference; send a Predict for each signature",
        )

    async def GetModelMetadata(self, request, context):
        return await _answer(
            None, context, functools.partial(calls.get_model_metadata, self._store, request)
        )

    async def _run(self, method, api, request, context):
        remaining = _remaining(context, self._default_timeout)

        def call():
            name = self._store.known_name(request.model_spec.name)
            with metrics.Counted(name, api, "GRPC"):
                return method(self._store, request, remaining())

        return await _answer(self._pool, context, call)


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, store: ModelStore, allow_reload_config: bool):
        self._store = store
        self._allow_reload_config = allow_reload_config
        # One at a time, in a thread of its own: a reload waits for loads, which may take minutes.
        self._reloads = futures.ThreadPoolExecutor(1, "reload")

    async def GetModelStatus(self, request, context):
        return await _answer(
            None, context, functools.partial(calls.get_model_status, self._store, request)
        )

    async def HandleReloadConfigRequest(self, request, context):
        if not self._allow_reload_config:
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                "byol-serve takes no config from clients unless it is started with "
                "--allow_reload_config; edit the file of --model_config_file instead.",
            )
        waiting = True

        def stop_waiting(_):
            nonlocal waiting
            waiting = False

        context.add_done_callback(stop_waiting)
        call = functools.partial(calls.reload_config, self._store, request, lambda: waiting)
        return await _answer(self._reloads, context, call)

"""`EmbeddingClient`: embeddings of images from any server that speaks TF Serving's protocol."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import numpy as np

from serving.client.batches import Image, in_batches
from serving.client.grpc_transport import AsyncGrpcTransport, GrpcTransport
from serving.client.rest_transport import AsyncRestTransport, RestTransport
from serving.client.transport import (
    AsyncTransport,
    Batch,
    EmbeddingError,
    PixelFormat,
    Target,
    Tls,
    Transport,
)

_T = TypeVar("_T")
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0  # Seconds.


class _Tries:
    """The time left for a call, and the waits before its retries.

    Only UNAVAILABLE is retried: no server, a full queue, a restart. Other errors would come again,
    or the work would be done twice.
    """

    def __init__(self, timeout: float, retries: int):
        self._end = time.monotonic() + timeout
        self._retries = retries
        self._wait = _FIRST_WAIT

    def seconds_left(self) -> float:
        return max(0.001, self._end - time.monotonic())

    def wait_after(self, error: EmbeddingError) -> float:
        """Returns the seconds to wait before the next try; raises `error` if there is none."""
        wait = self._wait * random.uniform(0.5, 1.0)
        if error.code != "UNAVAILABLE" or not self._retries or time.monotonic() + wait >= self._end:
            raise error
        self._retries -= 1
        self._wait = min(2 * self._wait, _LONGEST_WAIT)
        return wait


def _check(batch_size: int, timeout: float, retries: int) -> None:
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("timeout", timeout, 0),
        ("retries", retries, 0),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; give at least {least}.")


def _is_rest(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def _joined(rows: dict[int, np.ndarray]) -> np.ndarray:
    if not rows:
        return np.zeros([0, 0], np.float32)
    return np.stack([rows[index] for index in range(len(rows))])


class EmbeddingClient:
    """Client of an embedding endpoint. It keeps its connections; several threads may share it.

    Args:
        address: Address of the server: "HOST:PORT" for gRPC; "http://HOST:PORT" or
            "https://HOST:PORT" for REST, which sends a third more bytes for files, and several
            times as many for arrays, as JSON numbers; of arrays of 16 bits, it sends PNG files.
        model_name: Name of the model.
        version: Version of the model; None for the newest.
        label: Label of a version, such as "stable", instead of its number.
        timeout: Seconds that one request may take, including its retries.
        batch_size: Maximum number of images per request; larger servers are faster with more.
        retries: Retries while the server is UNAVAILABLE, after waits that double from 0.1 s to 5 s.
        tls: Certificates. None means plain text for gRPC, and the authorities that the system
            trusts for https.

    Raises:
        ValueError: A number is out of range, or both version and label are given.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:8500",
        model_name: str = "byol",
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float = 30.0,
        batch_size: int = 32,
        retries: int = 6,
        tls: Tls | None = None,
    ):
        target = Target(model_name, version, label)
        _check(batch_size, timeout, retries)
        transport: Transport = (
            RestTransport(address, tls) if _is_rest(address) else GrpcTransport(address, tls)
        )
        self._set_up(transport, target, timeout, batch_size, retries)

    @classmethod
    def over(
        cls, transport: Transport, target: Target, *, timeout: float = 3600.0, batch_size: int = 32
    ) -> "EmbeddingClient":
        """Returns a client that sends its requests over `transport`, without retries."""
        _check(batch_size, timeout, 0)
        client = cls.__new__(cls)
        client._set_up(transport, target, timeout, batch_size, retries=0)
        return client

    def _set_up(
        self,
        transport: Transport,
        target: Target,
        timeout: float,
        batch_size: int,
        retries: int,
    ) -> None:
        self._transport = transport
        self._target = target
        self._timeout = timeout
        self._batch_size = batch_size
        self._retries = retries

    def embed(self, images: Iterable[Image] | Image) -> np.ndarray:
        """Returns the embeddings of images.

        Args:
            images: Files or arrays, see `batches.in_batches`.

        Returns:
            Embeddings, float32 `[N, D]`, in the order of the images: `[1, D]` for a single image,
            `[0, 0]` without images.

        Raises:
            EmbeddingError: The endpoint does not answer, or refuses an image. `embed_each` tells
                which one, and embeds the others.
            OSError, ValueError, TypeError: From `in_batches`.
        """
        rows: dict[int, np.ndarray] = {}
        for batch in in_batches(images, self._batch_size):
            rows.update(zip(batch.indices, self._predict(batch), strict=True))
        return _joined(rows)

    def embed_each(self, images: Iterable[Image] | Image) -> list[np.ndarray | EmbeddingError]:
        """Returns the embedding of each image, or the error if the endpoint refuses that image.

        A refused batch is halved until each bad image is alone.

        Args:
            images: Files or arrays, see `batches.in_batches`.

        Raises:
            EmbeddingError: The endpoint fails for another reason than a bad image.
            OSError, ValueError, TypeError: From `in_batches`.
        """
        results: dict[int, np.ndarray | EmbeddingError] = {}
        for batch in in_batches(images, self._batch_size):
            results.update(self._predict_each(batch))
        return [results[index] for index in range(len(results))]

    def _predict_each(self, batch: Batch) -> dict[int, np.ndarray | EmbeddingError]:
        try:
            return dict(zip(batch.indices, self._predict(batch), strict=True))
        except EmbeddingError as error:
            if error.code != "INVALID_ARGUMENT":
                raise
            if len(batch.values) == 1:
                return {batch.indices[0]: error}
        half = len(batch.values) // 2
        return self._predict_each(
            Batch(batch.indices[:half], batch.values[:half])
        ) | self._predict_each(Batch(batch.indices[half:], batch.values[half:]))

    def version(self) -> int:
        """Returns the version that answers now: the one that the label names, or the newest.

        Raises:
            EmbeddingError: No such version or no server answers.
        """
        return self._try(lambda seconds: self._transport.version(self._target, seconds))

    def pixel_format(self) -> PixelFormat:
        """Returns the channels and the type of the arrays that the model takes.

        Raises:
            EmbeddingError: No such version or no server answers, or the model takes no arrays.
        """
        return self._try(lambda seconds: self._transport.pixel_format(self._target, seconds))

    def _predict(self, batch: Batch) -> np.ndarray:
        return self._try(lambda seconds: self._transport.predict(self._target, batch, seconds))

    def _try(self, call: Callable[[float], _T]) -> _T:
        tries = _Tries(self._timeout, self._retries)
        while True:
            try:
                return call(tries.seconds_left())
            except EmbeddingError as error:
                time.sleep(tries.wait_after(error))

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def __enter__(self) -> "EmbeddingClient":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


class AsyncEmbeddingClient:
    """`EmbeddingClient` for asyncio, with several requests at the same time.

    Must be made in a running event loop.

    Args:
        in_flight: Maximum number of requests at the same time. Two keep a server busy; one that
            batches across requests needs more. The other arguments are those of `EmbeddingClient`.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:8500",
        model_name: str = "byol",
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float = 30.0,
        batch_size: int = 32,
        retries: int = 6,
        in_flight: int = 4,
        tls: Tls | None = None,
    ):
        _check(batch_size, timeout, retries)
        self._target = Target(model_name, version, label)
        self._transport: AsyncTransport = (
            AsyncRestTransport(address, tls)
            if _is_rest(address)
            else AsyncGrpcTransport(address, tls)
        )
        self._timeout = timeout
        self._batch_size = batch_size
        self._retries = retries
        self._in_flight = in_flight

    async def embed(self, images: Iterable[Image] | Image) -> np.ndarray:
        """Returns the embeddings of images; see `EmbeddingClient.embed`. Reads files as needed."""
        rows: dict[int, np.ndarray] = {}
        running: set[asyncio.Future[None]] = set()

        async def one(batch: Batch) -> None:
            rows.update(zip(batch.indices, await self._predict(batch), strict=True))

        try:
            for batch in in_batches(images, self._batch_size):
                running.add(asyncio.ensure_future(one(batch)))
                if len(running) == self._in_flight:
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
            await asyncio.gather(*running)
        finally:
            for task in running:  # After an error, nobody needs the other results.
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return _joined(rows)

    async def version(self) -> int:
        """Returns the version that answers now, see `EmbeddingClient.version`."""
        return await self._try(lambda seconds: self._transport.version(self._target, seconds))

    async def _predict(self, batch: Batch) -> np.ndarray:
        return await self._try(
            lambda seconds: self._transport.predict(self._target, batch, seconds)
        )

    async def _try(self, call: Callable[[float], Awaitable[_T]]) -> _T:
        tries = _Tries(self._timeout, self._retries)
        while True:
            try:
                return await call(tries.seconds_left())
            except EmbeddingError as error:
                await asyncio.sleep(tries.wait_after(error))

    async def close(self) -> None:
        """Closes the connections."""
        await self._transport.close()

    async def __aenter__(self) -> "AsyncEmbeddingClient":
        return self

    async def __aexit__(self, *unused: object) -> None:
        await self.close()

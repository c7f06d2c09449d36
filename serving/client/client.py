"""`EmbeddingClient`: images in, embeddings out, from any server that speaks TF Serving's protocol."""

import asyncio
import random
import time
from collections.abc import Iterable

import numpy as np

from serving.client.batches import Image, in_batches
from serving.client.grpc_transport import AsyncGrpcTransport, GrpcTransport
from serving.client.rest_transport import AsyncRestTransport, RestTransport
from serving.client.transport import Batch, EmbeddingError, Target, Tls, Transport

_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0  # Seconds.


class _Tries:
    """How long a call still has, and how long it waits before it tries again.

    Only UNAVAILABLE is worth a second try: no server, a full queue, a restart. Everything else would
    be answered the same, or be paid for twice.
    """

    def __init__(self, timeout: float, retries: int):
        self._end = time.monotonic() + timeout
        self._retries = retries
        self._wait = _FIRST_WAIT

    def seconds_left(self) -> float:
        return max(0.001, self._end - time.monotonic())

    def wait_after(self, error: EmbeddingError) -> float:
        """Seconds to wait before the next try; raises `error` where there is none."""
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
    """Embeddings from an endpoint, over connections that are kept. Safe to use from several threads.

    Args:
        address: "HOST:PORT" for gRPC; "http://HOST:PORT" or "https://HOST:PORT" for REST, over which
            files are sent at a third more bytes, and arrays, as JSON numbers, at several times as many.
        model_name: of the model.
        version: of the model; None for the newest.
        label: of a version, such as "stable", in its place.
        timeout: seconds that one request may take, its retries included.
        batch_size: images a request carries; larger ones suit larger servers.
        retries: after the first try, while the server is UNAVAILABLE; with waits of 0.1 s and then
            twice the last, up to 5 s.
        tls: certificates; with it gRPC is encrypted. https takes those the system trusts without.

    Raises:
        ValueError: a number is out of range, or both version and label are given.
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
        transport = (
            RestTransport(address, tls) if _is_rest(address) else GrpcTransport(address, tls)
        )
        self._set_up(transport, target, timeout, batch_size, retries)

    @classmethod
    def over(
        cls, transport: Transport, target: Target, *, timeout: float = 3600.0, batch_size: int = 32
    ):
        """A client that sends its requests over `transport`."""
        _check(batch_size, timeout, 0)
        client = cls.__new__(cls)
        client._set_up(transport, target, timeout, batch_size, retries=0)
        return client

    def _set_up(self, transport, target, timeout, batch_size, retries) -> None:
        self._transport = transport
        self._target = target
        self._timeout = timeout
        self._batch_size = batch_size
        self._retries = retries

    def embed(self, images: Iterable[Image]) -> np.ndarray:
        """The embeddings of images.

        Args:
            images: see `batches.in_batches`.

        Returns:
            float32 [N, D], in the order of the images; [0, 0] for none.

        Raises:
            EmbeddingError: the endpoint does not answer, or refuses an image. `embed_each` tells
                which, and gives the others.
            OSError, ValueError, TypeError: of `in_batches`.
        """
        rows = {}
        for batch in in_batches(images, self._batch_size):
            rows.update(zip(batch.indices, self._predict(batch), strict=True))
        return _joined(rows)

    def embed_each(self, images: Iterable[Image]) -> list[np.ndarray | EmbeddingError]:
        """As `embed`, with an error in the place of each image that the endpoint refuses.

        A batch that is refused is halved until the images to blame stand alone.

        Raises:
            EmbeddingError: the endpoint fails for another reason than its input.
        """
        results = {}
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
        """The version that answers now: what the label names, or the newest.

        Raises:
            EmbeddingError: there is none, or no server.
        """
        return self._try(lambda seconds: self._transport.version(self._target, seconds))

    def _predict(self, batch: Batch) -> np.ndarray:
        return self._try(lambda seconds: self._transport.predict(self._target, batch, seconds))

    def _try(self, call):
        tries = _Tries(self._timeout, self._retries)
        while True:
            try:
                return call(tries.seconds_left())
            except EmbeddingError as error:
                time.sleep(tries.wait_after(error))

    def close(self) -> None:
        """Ends its connections."""
        self._transport.close()

    def __enter__(self) -> "EmbeddingClient":
        return self

    def __exit__(self, *unused) -> None:
        self.close()


class AsyncEmbeddingClient:
    """The same for asyncio, with several requests under way at once. To be made in a running event loop.

    Args:
        in_flight: requests under way at most; two keep a server busy that batches by itself, more
            one that batches across requests.
        Others: of `EmbeddingClient`.
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
        self._transport = (
            AsyncRestTransport(address, tls)
            if _is_rest(address)
            else AsyncGrpcTransport(address, tls)
        )
        self._timeout = timeout
        self._batch_size = batch_size
        self._retries = retries
        self._in_flight = in_flight

    async def embed(self, images: Iterable[Image]) -> np.ndarray:
        """As `EmbeddingClient.embed`; files are read on the way, a request's worth at a time."""
        rows, running = {}, set()

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
            for task in running:  # After an error the others are for nobody.
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return _joined(rows)

    async def version(self) -> int:
        """As `EmbeddingClient.version`."""
        return await self._try(lambda seconds: self._transport.version(self._target, seconds))

    async def _predict(self, batch: Batch) -> np.ndarray:
        return await self._try(
            lambda seconds: self._transport.predict(self._target, batch, seconds)
        )

    async def _try(self, call):
        tries = _Tries(self._timeout, self._retries)
        while True:
            try:
                return await call(tries.seconds_left())
            except EmbeddingError as error:
                await asyncio.sleep(tries.wait_after(error))

    async def close(self) -> None:
        """Ends its connections."""
        await self._transport.close()

    async def __aenter__(self) -> "AsyncEmbeddingClient":
        return self

    async def __aexit__(self, *unused) -> None:
        await self.close()

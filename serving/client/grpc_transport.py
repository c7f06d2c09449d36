"""Requests over gRPC: one channel, which keeps its connection and reconnects if it is lost."""

import contextlib
from collections.abc import Iterator

import grpc
import grpc.aio
import numpy as np

from serving.client import wire
from serving.client.transport import (
    Batch,
    EmbeddingError,
    PixelFormat,
    Target,
    Tls,
    checked,
    no_pixels,
)

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
_TYPES = {"uint8": wire.DT_UINT8, "uint16": wire.DT_UINT16}
_OPTIONS = (
    # gRPC's default limit is 4 MiB; a thousand embeddings exceed it.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # `EmbeddingClient` retries, in the same way for gRPC and REST.
    ("grpc.enable_retries", 0),
    # After a restart of the server, reconnect at once and not after gRPC's default back-off.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


def _read(path: str | None) -> bytes | None:
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        *map(_read, (tls.root_certificates, tls.private_key, tls.certificate_chain))
    )


def _spec(target: Target, signature: str = ""):
    spec = wire.ModelSpec(name=target.model_name, signature_name=signature)
    if target.version is not None:
        spec.version.value = target.version
    elif target.label:
        spec.version_label = target.label
    return spec


def _predict_request(target: Target, batch: Batch):
    signature, name = batch.signature
    request = wire.PredictRequest(model_spec=_spec(target, signature), output_filter=["embedding"])
    tensor = request.inputs[name]
    tensor.tensor_shape.dim.add(size=len(batch.values))
    if isinstance(batch.values, np.ndarray):
        tensor.dtype = _TYPES[batch.values.dtype.name]
        for size in batch.values.shape[1:]:
            tensor.tensor_shape.dim.add(size=size)
        little_endian = batch.values.dtype.newbyteorder("<")
        tensor.tensor_content = batch.values.astype(little_endian, copy=False).tobytes()
    else:
        tensor.dtype = wire.DT_STRING
        tensor.string_val.extend(batch.values)
    return request


def _embeddings(response, batch: Batch, who: str) -> np.ndarray:
    tensor = response.outputs["embedding"]
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.dtype != wire.DT_FLOAT:
        raise EmbeddingError("INTERNAL", f"{who} answers with type {tensor.dtype}, not float32")
    if tensor.tensor_content:
        values = np.frombuffer(tensor.tensor_content, "<f4").astype(np.float32)
    else:
        values = np.fromiter(tensor.float_val, np.float32, len(tensor.float_val))
    if values.size == 1:  # A TensorProto may give one value for all elements.
        values = np.full(np.prod(shape), values[0])
    return checked(values.reshape(shape), batch, who)


def _metadata_request(target: Target):
    return wire.GetModelMetadataRequest(model_spec=_spec(target), metadata_field=["signature_def"])


def _pixel_format(response, who: str) -> PixelFormat:
    signatures = wire.SignatureDefMap.FromString(response.metadata["signature_def"].value)
    info = signatures.signature_def["pixels"].inputs["images"]
    for name, number in _TYPES.items():
        if info.dtype == number and len(info.tensor_shape.dim) == 4:
            return PixelFormat(info.tensor_shape.dim[-1].size, name)
    raise no_pixels(who)


@contextlib.contextmanager
def _errors(address: str, target: Target) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise EmbeddingError(
            error.code().name, f"{target} at {address}: {error.details()}"
        ) from error


def _methods(channel):
    """Returns Predict and GetModelMetadata of a channel, blocking or asyncio, as callables."""
    return tuple(
        channel.unary_unary(
            path,
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        for path, request, response in (
            (_PREDICT, wire.PredictRequest, wire.PredictResponse),
            (_METADATA, wire.GetModelMetadataRequest, wire.GetModelMetadataResponse),
        )
    )


class GrpcTransport:
    """`Transport` over gRPC.

    Args:
        address: Address of the server, "HOST:PORT".
        tls: Certificates, or None for plain text.
    """

    def __init__(self, address: str, tls: Tls | None):
        self._address = address
        self._channel = (
            grpc.secure_channel(address, _credentials(tls), _OPTIONS)
            if tls
            else grpc.insecure_channel(address, _OPTIONS)
        )
        self._predict, self._metadata = _methods(self._channel)

    def predict(self, target: Target, batch: Batch, timeout: float) -> np.ndarray:
        with _errors(self._address, target):
            response = self._predict(_predict_request(target, batch), timeout=timeout)
        return _embeddings(response, batch, f"{target} at {self._address}")

    def version(self, target: Target, timeout: float) -> int:
        with _errors(self._address, target):
            response = self._metadata(_metadata_request(target), timeout=timeout)
        return response.model_spec.version.value

    def pixel_format(self, target: Target, timeout: float) -> PixelFormat:
        with _errors(self._address, target):
            response = self._metadata(_metadata_request(target), timeout=timeout)
        return _pixel_format(response, f"{target} at {self._address}")

    def close(self) -> None:
        self._channel.close()


class AsyncGrpcTransport:
    """`AsyncTransport` over gRPC; arguments as for `GrpcTransport`."""

    def __init__(self, address: str, tls: Tls | None):
        self._address = address
        self._channel = (
            grpc.aio.secure_channel(address, _credentials(tls), _OPTIONS)
            if tls
            else grpc.aio.insecure_channel(address, _OPTIONS)
        )
        self._predict, self._metadata = _methods(self._channel)

    async def predict(self, target: Target, batch: Batch, timeout: float) -> np.ndarray:
        with _errors(self._address, target):
            response = await self._predict(_predict_request(target, batch), timeout=timeout)
        return _embeddings(response, batch, f"{target} at {self._address}")

    async def version(self, target: Target, timeout: float) -> int:
        with _errors(self._address, target):
            response = await self._metadata(_metadata_request(target), timeout=timeout)
        return response.model_spec.version.value

    async def close(self) -> None:
        await self._channel.close()

"""Requests over REST, with httpx, which keeps connections and verifies certificates."""

import base64
import contextlib
import json
import ssl
import urllib.parse
from collections.abc import Iterator

import httpx
import numpy as np

from serving import png
from serving.client.transport import (
    Batch,
    EmbeddingError,
    PixelFormat,
    Target,
    Tls,
    checked,
    no_pixels,
)

# Code of each HTTP status of TF Serving; the most common one if a status has several codes.
_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def _options(tls: Tls | None) -> dict:
    """Returns the options of httpx's clients, blocking or asyncio."""
    context = ssl.create_default_context(cafile=tls.root_certificates if tls else None)
    if tls and tls.certificate_chain:
        context.load_cert_chain(tls.certificate_chain, tls.private_key)
    # By default httpx keeps at most 20 connections; beyond that each request would open a new one.
    return {
        "verify": context,
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=None),
    }


def _path(target: Target) -> str:
    path = f"/v1/models/{urllib.parse.quote(target.model_name, safe='')}"
    if target.version is not None:
        return f"{path}/versions/{target.version}"
    return f"{path}/labels/{urllib.parse.quote(target.label, safe='')}" if target.label else path


def _predict_body(batch: Batch) -> bytes:
    signature, _ = batch.signature
    values = batch.values
    if isinstance(values, np.ndarray) and values.dtype == np.uint16:
        # TF Serving reads no numbers of this type from JSON. The graph reads PNG without loss.
        signature, values = "serving_default", [png.encode(image) for image in values]
    if isinstance(values, np.ndarray):
        instances = values.tolist()
    else:
        instances = [{"b64": base64.b64encode(value).decode()} for value in values]
    return json.dumps({"signature_name": signature, "instances": instances}).encode()


def _embeddings(response: httpx.Response, batch: Batch, who: str) -> np.ndarray:
    try:
        embeddings = np.array(response.json()["predictions"], np.float32)
    except (ValueError, KeyError, TypeError) as error:
        raise EmbeddingError(
            "INTERNAL", f"{who} does not answer with predictions ({error})"
        ) from error
    return checked(embeddings, batch, who)


def _version(response: httpx.Response, who: str) -> int:
    try:
        return int(response.json()["model_spec"]["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise EmbeddingError(
            "INTERNAL", f"{who} does not answer with metadata ({error})"
        ) from error


def _pixel_format(response: httpx.Response, who: str) -> PixelFormat:
    try:
        signatures = response.json()["metadata"]["signature_def"]["signature_def"]
        info = signatures["pixels"]["inputs"]["images"]
        dtype = {"DT_UINT8": "uint8", "DT_UINT16": "uint16"}[info["dtype"]]
        return PixelFormat(int(info["tensor_shape"]["dim"][-1]["size"]), dtype)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise no_pixels(who) from error


@contextlib.contextmanager
def _errors(who: str) -> Iterator[None]:
    try:
        yield
    except httpx.TimeoutException as error:
        raise EmbeddingError("DEADLINE_EXCEEDED", f"{who}: no answer in time") from error
    except httpx.TransportError as error:  # No connection, or a broken one.
        raise EmbeddingError("UNAVAILABLE", f"{who}: {error}") from error


def _check(response: httpx.Response, who: str) -> httpx.Response:
    if response.status_code != 200:
        try:
            text = response.json()["error"]
        except (ValueError, KeyError, TypeError):
            text = f"HTTP {response.status_code}: {response.text[:200]}"
        raise EmbeddingError(_CODES.get(response.status_code, "UNKNOWN"), f"{who}: {text}")
    return response


class RestTransport:
    """`Transport` over REST.

    Args:
        address: Address of the server, "http://HOST:PORT" or "https://HOST:PORT".
        tls: Certificates for https; None for the authorities that the system trusts.
    """

    def __init__(self, address: str, tls: Tls | None):
        self._address = address.rstrip("/")
        self._client = httpx.Client(**_options(tls))

    def predict(self, target: Target, batch: Batch, timeout: float) -> np.ndarray:
        who = f"{target} at {self._address}"
        with _errors(who):
            url = f"{self._address}{_path(target)}:predict"
            response = self._client.post(url, content=_predict_body(batch), timeout=timeout)
        return _embeddings(_check(response, who), batch, who)

    def version(self, target: Target, timeout: float) -> int:
        who = f"{target} at {self._address}"
        with _errors(who):
            response = self._client.get(f"{self._address}{_path(target)}/metadata", timeout=timeout)
        return _version(_check(response, who), who)

    def pixel_format(self, target: Target, timeout: float) -> PixelFormat:
        who = f"{target} at {self._address}"
        with _errors(who):
            response = self._client.get(f"{self._address}{_path(target)}/metadata", timeout=timeout)
        return _pixel_format(_check(response, who), who)

    def close(self) -> None:
        self._client.close()


class AsyncRestTransport:
    """`AsyncTransport` over REST; arguments as for `RestTransport`."""

    def __init__(self, address: str, tls: Tls | None):
        self._address = address.rstrip("/")
        self._client = httpx.AsyncClient(**_options(tls))

    async def predict(self, target: Target, batch: Batch, timeout: float) -> np.ndarray:
        who = f"{target} at {self._address}"
        with _errors(who):
            url = f"{self._address}{_path(target)}:predict"
            response = await self._client.post(url, content=_predict_body(batch), timeout=timeout)
        return _embeddings(_check(response, who), batch, who)

    async def version(self, target: Target, timeout: float) -> int:
        who = f"{target} at {self._address}"
        with _errors(who):
            response = await self._client.get(
                f"{self._address}{_path(target)}/metadata", timeout=timeout
            )
        return _version(_check(response, who), who)

    async def close(self) -> None:
        await self._client.aclose()

"""What gRPC and REST share: the target and images of a request, and the errors."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np


class EmbeddingError(Exception):
    """The endpoint did not answer, or answered with an error.

    Attributes:
        code: Name of the canonical status code, such as "UNAVAILABLE" or "INVALID_ARGUMENT".
    """

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


@dataclasses.dataclass(frozen=True)
class Tls:
    """Certificate files in PEM format.

    Attributes:
        root_certificates: File of the authority that signed the server's certificate; None for the
            authorities that the system trusts.
        private_key: File of the client's key, for servers that verify clients.
        certificate_chain: File of the certificate that belongs to the key.
    """

    root_certificates: str | None = None
    private_key: str | None = None
    certificate_chain: str | None = None


@dataclasses.dataclass(frozen=True)
class Target:
    """A model and its version: a number, the version that a label names, or the newest.

    Attributes:
        model_name: Name of the model.
        version: Number of the version, or None.
        label: Label of the version, or None.

    Raises:
        ValueError: Both a number and a label are given.
    """

    model_name: str
    version: int | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if self.version is not None and self.label:
            raise ValueError(
                f"both version {self.version} and label '{self.label}' are given; give one."
            )

    def __str__(self) -> str:
        which = f" version {self.version}" if self.version is not None else ""
        return f"model {self.model_name}{which or (f' label {self.label}' if self.label else '')}"


@dataclasses.dataclass(frozen=True)
class Batch:
    """The images of one request.

    Attributes:
        indices: Positions of the images among all that the caller asked for.
        values: Contents of image files, or one array of images, uint8 or uint16
            `[N, H, W, C]`.
    """

    indices: Sequence[int]
    values: Sequence[bytes] | np.ndarray

    @property
    def signature(self) -> tuple[str, str]:
        """Names of the signature and of its input that take these values."""
        if isinstance(self.values, np.ndarray):
            return "pixels", "images"
        return "serving_default", "image_bytes"


@dataclasses.dataclass(frozen=True)
class PixelFormat:
    """The arrays that a model takes, as its signature `pixels` says.

    Attributes:
        channels: Number of channels C.
        dtype: Name of the type, "uint8" or "uint16".
    """

    channels: int
    dtype: str


class Transport(Protocol):
    """How requests reach a model. Implementations may be used from several threads."""

    def predict(self, target: Target, batch: Batch, timeout: float) -> np.ndarray:
        """Returns the embeddings of a batch, float32 `[N, D]`; raises `EmbeddingError`."""

    def version(self, target: Target, timeout: float) -> int:
        """Returns the version that answers for the target now; raises `EmbeddingError`."""

    def pixel_format(self, target: Target, timeout: float) -> PixelFormat:
        """Returns the arrays that the target takes; raises `EmbeddingError`."""

    def close(self) -> None:
        """Closes the connections."""


class AsyncTransport(Protocol):
    """`Transport` for asyncio."""

    async def predict(self, target: Target, batch: Batch, timeout: float) -> np.ndarray:
        """Returns the embeddings of a batch, float32 `[N, D]`; raises `EmbeddingError`."""

    async def version(self, target: Target, timeout: float) -> int:
        """Returns the version that answers for the target now; raises `EmbeddingError`."""

    async def close(self) -> None:
        """Closes the connections."""


def checked(embeddings: np.ndarray, batch: Batch, who: str) -> np.ndarray:
    """Returns the embeddings; raises `EmbeddingError` unless there is one per image."""
    if embeddings.ndim != 2 or len(embeddings) != len(batch.values):
        raise EmbeddingError(
            "INTERNAL",
            f"{who} answers {len(batch.values)} images with an array of shape "
            f"{list(embeddings.shape)}, not [{len(batch.values)}, D]",
        )
    return embeddings


def no_pixels(who: str) -> EmbeddingError:
    """Returns the error of a model without a signature `pixels`."""
    return EmbeddingError("FAILED_PRECONDITION", f"{who} has no signature pixels for arrays")

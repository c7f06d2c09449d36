"""What gRPC and REST have in common: whom they ask, for what, and how they fail."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np


class EmbeddingError(Exception):
    """The endpoint did not answer, or answered with an error.

    Attributes:
        code: name of the canonical status code, such as "UNAVAILABLE" or "INVALID_ARGUMENT".
    """

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


@dataclasses.dataclass(frozen=True)
class Tls:
    """Files in PEM format.

    Attributes:
        root_certificates: of the authority that signed the server's certificate; None for those the
            system trusts.
        private_key: of the client, where the server verifies clients.
        certificate_chain: that belongs to the key.
    """

    root_certificates: str | None = None
    private_key: str | None = None
    certificate_chain: str | None = None


@dataclasses.dataclass(frozen=True)
class Target:
    """Which model, and which version of it: the newest, a number, or what a label names.

    Raises:
        ValueError: both a number and a label are given.
    """

    model_name: str
    version: int | None = None
    label: str | None = None

    def __post_init__(self):
        if self.version is not None and self.label:
            raise ValueError(
                f"both version {self.version} and label '{self.label}' are given; give one."
            )

    def __str__(self) -> str:
        which = f" version {self.version}" if self.version is not None else ""
        return f"model {self.model_name}{which or (f' label {self.label}' if self.label else '')}"


@dataclasses.dataclass(frozen=True)
class Batch:
    """Images that one request carries.

    Attributes:
        indices: the positions of the images among all that are asked for.
        values: files as bytes, or arrays uint8 [H, W, 3] of one shape.
    """

    indices: Sequence[int]
    values: Sequence[bytes] | Sequence[np.ndarray]

    @property
    def are_files(self) -> bool:
        """Whether the images are files and not arrays."""
        return isinstance(self.values[0], bytes)

    @property
    def signature(self) -> tuple[str, str]:
        """Signature and input that take such values."""
        return ("serving_default", "image_bytes") if self.are_files else ("pixels", "images")


class Transport(Protocol):
    """How requests travel. Safe to use from several threads."""

    def predict(self, target: Target, batch: Batch, timeout: float) -> np.ndarray:
        """The embeddings of a batch, float32 [N, D]; raises `EmbeddingError`."""

    def version(self, target: Target, timeout: float) -> int:
        """The version that answers for the target now; raises `EmbeddingError`."""

    def close(self) -> None:
        """Ends its connections."""


def checked(embeddings: np.ndarray, batch: Batch, who: str) -> np.ndarray:
    """Raises `EmbeddingError` unless there is one embedding an image."""
    if embeddings.ndim != 2 or len(embeddings) != len(batch.values):
        raise EmbeddingError(
            "INTERNAL",
            f"{who} answers {len(batch.values)} images with {embeddings.shape}, not [N, D]",
        )
    return embeddings

"""Clients of the embedding endpoint. They do not import TensorFlow."""

from serving.client.client import AsyncEmbeddingClient, EmbeddingClient
from serving.client.transport import EmbeddingError, Tls

__all__ = ["AsyncEmbeddingClient", "EmbeddingClient", "EmbeddingError", "Tls"]

"""Flags of byol-embed and byol-neighbors that choose the encoder: an endpoint or a SavedModel."""

import dataclasses
from typing import Any

from absl import flags

from serving import command
from serving.client import EmbeddingClient, EmbeddingError, Tls
from serving.client.transport import Target
from serving.errors import UserError
from serving.search import identity

_FLAGS = flags.FLAGS


@dataclasses.dataclass(frozen=True)
class Encoder:
    """The encoder that the flags choose.

    Attributes:
        client: Client that asks for one fixed version: embeddings of two versions cannot be
            compared.
        about: `model` and `probe` of the embeddings' file, see `Embeddings`.
    """

    client: EmbeddingClient
    about: dict[str, Any]


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_string(
        "address",
        None,
        "Address of the endpoint: HOST:PORT for gRPC, http://HOST:PORT or https://HOST:PORT for "
        "REST.",
    )
    flags.DEFINE_string(
        "saved_model",
        None,
        "Folder of an exported encoder, MODEL or MODEL/VERSION, to use instead of an endpoint.",
    )
    flags.DEFINE_string("model_name", "byol", "Name of the model at the endpoint.")
    flags.DEFINE_integer(
        "model_version",
        None,
        "Version of the model; by default the version that is newest when the command starts.",
    )
    flags.DEFINE_string(
        "model_label", None, "Label of a version of the model, instead of its number."
    )
    flags.DEFINE_integer("batch_size", 32, "Number of images per request.", lower_bound=1)
    flags.DEFINE_float(
        "timeout", 60.0, "Seconds that a request may take, including retries.", lower_bound=0.001
    )
    flags.DEFINE_string(
        "tls_root_certificates",
        None,
        "PEM file of the authority that signed the server's certificate.",
    )
    flags.DEFINE_string(
        "tls_private_key", None, "PEM file of the client's key, for servers that verify clients."
    )
    flags.DEFINE_string(
        "tls_certificate", None, "PEM file of the client's certificate, for --tls_private_key."
    )


def open_encoder() -> Encoder:
    """Opens the encoder that the flags choose.

    Raises:
        UserError: The flags choose none or two, or the chosen encoder does not answer.
    """
    if (_FLAGS.address is None) == (_FLAGS.saved_model is None):
        raise UserError("give either --address of an endpoint or --saved_model.")
    client, model = (
        _from_saved_model(_FLAGS.saved_model) if _FLAGS.saved_model else _from_endpoint()
    )
    try:
        return Encoder(client, {"model": model, "probe": identity.probe(client)})
    except EmbeddingError as error:
        client.close()
        raise UserError(
            f"{str(error).splitlines()[0]} ({error.code}); give a model of byol-export."
        ) from error


def _from_endpoint() -> tuple[EmbeddingClient, dict[str, Any]]:
    tls = None
    if _FLAGS.tls_root_certificates or _FLAGS.tls_private_key:
        tls = Tls(_FLAGS.tls_root_certificates, _FLAGS.tls_private_key, _FLAGS.tls_certificate)

    def connect(version: int | None, label: str | None) -> EmbeddingClient:
        return EmbeddingClient(
            _FLAGS.address,
            _FLAGS.model_name,
            version=version,
            label=label,
            timeout=_FLAGS.timeout,
            batch_size=_FLAGS.batch_size,
            tls=tls,
        )

    try:
        with connect(_FLAGS.model_version, _FLAGS.model_label) as client:
            version = client.version()
    except (ValueError, OSError) as error:
        raise UserError(f"wrong flags of the endpoint: {error}") from error
    except EmbeddingError as error:
        raise UserError(
            f"{error} ({error.code}); is the endpoint up, and the model's name right?"
        ) from error
    return connect(version, None), {"model": _FLAGS.model_name, "version": version}


def _from_saved_model(path: str) -> tuple[EmbeddingClient, dict[str, Any]]:
    command.import_tensorflow()
    from serving.search.saved_model import SavedModelTransport

    transport = SavedModelTransport(path)
    client = EmbeddingClient.over(transport, Target(path), batch_size=_FLAGS.batch_size)
    return client, {"SavedModel": transport.digest()}

"""TLS for gRPC and REST from one SSLConfig."""

import os
import ssl
import tempfile

import grpc

from serving.errors import UserError
from serving.local_server.settings_files import SslConfig


def credentials(config: SslConfig) -> grpc.ServerCredentials:
    """Returns the credentials of the gRPC server, made as in TF Serving."""
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )


def context(config: SslConfig) -> ssl.SSLContext:
    """Returns the context of the REST server.

    TF Serving leaves REST in plain text. Here, a server that demands credentials demands them on
    every port.

    Raises:
        UserError: The key, certificate or authority is not PEM, or they do not belong together.
    """
    result = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # The ssl module reads a key from a file only; this one has mode 600 and is removed at once.
        with tempfile.TemporaryDirectory() as folder:
            for name, content in (("key", config.server_key), ("cert", config.server_cert)):
                with open(
                    os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT, 0o600), "w"
                ) as file:
                    file.write(content)
            result.load_cert_chain(os.path.join(folder, "cert"), os.path.join(folder, "key"))
        if config.custom_ca:
            result.load_verify_locations(cadata=config.custom_ca)
    except ssl.SSLError as error:
        raise UserError(
            f"the key, certificate and authority in the SSLConfig are not PEM or do not belong "
            f"together ({error}); give the PEM contents of a key, its certificate and, to verify "
            "clients, their authority."
        ) from error
    if config.client_verify:
        result.verify_mode = ssl.CERT_REQUIRED
    return result

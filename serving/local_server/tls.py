"""TLS of both sides from one SSLConfig: PEM contents, client certificates where they are demanded."""

import os
import ssl
import tempfile

import grpc

from serving.errors import UserError


def credentials(config) -> grpc.ServerCredentials:
    """For gRPC, as TF Serving's.

    Args:
        config: of `settings_files.read_ssl`.
    """
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )


def context(config) -> ssl.SSLContext:
    """For REST, which TF Serving leaves open: what demands credentials must not answer beside them.

    Raises:
        UserError: key, certificate or authority are no PEM, or do not belong together.
    """
    result = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # The ssl module takes a key from a file only; it is ours alone, and gone at once.
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
            f"the SSLConfig does not hold together ({error}); it needs the PEM contents of a key, its "
            "certificate and, to verify clients, their authority."
        ) from error
    if config.client_verify:
        result.verify_mode = ssl.CERT_REQUIRED
    return result

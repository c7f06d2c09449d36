"""TLS and mutual TLS of both protocols against a real server, with certificates made here."""

import asyncio
import datetime
import ipaddress
import pathlib

import grpc
import numpy as np
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf import text_format
from serve import Server
from tensorflow_serving.apis import get_model_metadata_pb2, prediction_service_pb2_grpc

from serving.client import AsyncEmbeddingClient, EmbeddingClient, EmbeddingError, Tls

pytestmark = pytest.mark.slow


class Authority:
    """A private authority that signs certificates for 127.0.0.1."""

    def __init__(self, folder: pathlib.Path, name: str):
        self.folder = folder
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.path = folder / f"{name}.crt"
        self.path.write_bytes(self._certificate(self._name, self._key.public_key(), True))

    def _certificate(self, subject, public_key, is_authority) -> bytes:
        now = datetime.datetime.now(datetime.timezone.utc)
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = (
            x509.CertificateBuilder(self._name, subject, public_key, x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(address, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str) -> tuple[str, str]:
        """Makes a certificate; returns the paths of it and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate, key_file = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        certificate.write_bytes(self._certificate(subject, key.public_key(), False))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return str(certificate), str(key_file)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"), "authority")


@pytest.fixture(scope="module")
def client_certificate(authority):
    return authority.issue("client")


@pytest.fixture(scope="module", params=[False, True], ids=["tls", "mutual"])
def secure(request, authority, encoder_dir):
    """A server with TLS, and whether it verifies clients."""
    certificate, key = (
        pathlib.Path(path).read_text() for path in authority.issue(f"server{request.param}")
    )
    quoted = [
        text_format.text_encoding.CEscape(text, as_utf8=True)
        for text in (key, certificate, authority.path.read_text())
    ]
    config = authority.folder / f"ssl{request.param}.config"
    config.write_text(
        f'server_key: "{quoted[0]}"\nserver_cert: "{quoted[1]}"\ncustom_ca: "{quoted[2]}"\n'
        f"client_verify: {str(request.param).lower()}\n"
    )
    log = authority.folder / f"log{request.param}"
    flags = ("--model_name=byol", f"--model_base_path={encoder_dir}", f"--ssl_config_file={config}")
    with Server(log, *flags) as server:
        yield server, request.param


def addresses(server):
    return [server.address, server.url.replace("http:", "https:")]


def test_clients_with_the_authority_and_a_certificate_are_answered(
    secure, authority, client_certificate, images_dir
):
    server, _ = secure
    certificate, key = client_certificate
    tls = Tls(str(authority.path), key, certificate)
    files = [images_dir / "test" / "cat" / "0000.jpg"]
    results = []
    for address in addresses(server):
        with EmbeddingClient(address, tls=tls) as client:
            assert client.version() == 1
            results.append(client.embed(files))

        async def embed(address=address):
            async with AsyncEmbeddingClient(address, tls=tls) as client:
                return await client.embed(files)

        results.append(asyncio.run(embed()))
    for result in results:
        assert result.shape == (1, 128)
        np.testing.assert_allclose(result, results[0], rtol=0, atol=1e-6)


def test_without_a_certificate_nothing_is_answered_where_one_is_demanded(
    secure, authority, images_dir
):
    server, mutual = secure
    for address in addresses(server):
        with EmbeddingClient(
            address, tls=Tls(str(authority.path)), retries=0, timeout=10
        ) as client:
            if not mutual:
                assert client.version() == 1
                continue
            with pytest.raises(EmbeddingError) as caught:
                client.version()
            assert caught.value.code == "UNAVAILABLE"
            with pytest.raises(EmbeddingError):
                client.embed([images_dir / "test" / "cat" / "0000.jpg"])


def test_a_certificate_of_another_authority_is_refused(secure, authority, tmp_path):
    server, mutual = secure
    certificate, key = Authority(tmp_path, "stranger").issue("intruder")
    for address in addresses(server):
        with EmbeddingClient(
            address, tls=Tls(str(authority.path), key, certificate), retries=0, timeout=10
        ) as client:
            if mutual:
                with pytest.raises(EmbeddingError) as caught:
                    client.version()
                assert caught.value.code == "UNAVAILABLE"


def test_a_server_of_another_authority_is_not_trusted(secure, tmp_path):
    server, _ = secure
    stranger = Authority(tmp_path, "stranger")
    for address in addresses(server):
        with (
            EmbeddingClient(address, tls=Tls(str(stranger.path)), retries=0, timeout=10) as client,
            pytest.raises(EmbeddingError) as caught,
        ):
            client.version()
        assert caught.value.code == "UNAVAILABLE"


def test_plain_text_is_not_answered(secure):
    server, _ = secure
    with grpc.insecure_channel(server.address) as channel:
        ask = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        ask.model_spec.name = "byol"
        with pytest.raises(grpc.RpcError) as caught:
            prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(
                ask, timeout=10
            )
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    for path in ("/v1/models/byol", "/monitoring/prometheus/metrics"):
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{server.url}{path}", timeout=10)


def test_by_default_it_listens_on_loopback_only(secure):
    server, _ = secure
    hosts = []
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            host, port = local.split(":")
            if state == "0A" and int(port, 16) in (server.port, server.rest_port):
                words = [
                    bytes.fromhex(host[start : start + 8])[::-1] for start in range(0, len(host), 8)
                ]
                address = ipaddress.ip_address(b"".join(words))
                hosts.append(getattr(address, "ipv4_mapped", None) or address)
    assert len(hosts) == 2 and all(host.is_loopback for host in hosts)

"""TLS, mutual TLS and unix sockets of both gRPC transports; and a whole server that is told of them."""

import datetime as dt
import ipaddress
import socket
import ssl
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import http2_frames as h2
import numpy as np
import pytest
import tritonclient.grpc as triton
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_host import TIMEOUT_S, TRANSPORTS, Host
from http2_peer import Peer

from services.errors import InvalidArgument, Unavailable
from services.frontends.grpc.http2.limits import Limits
from services.frontends.grpc.options import TlsOptions
from services.launch import ServerProcess

DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path

    def credentials(self, authority: Path) -> grpc.ChannelCredentials:
        files = (authority, self.key, self.certificate)
        return grpc.ssl_channel_credentials(*(path.read_bytes() for path in files))


@dataclass(frozen=True)
class Papers:
    """An authority, a server and a client of it, and a stranger whose certificate is of nobody's making but his own."""

    authority: Path
    server: Identity
    client: Identity
    stranger: Identity


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    folder = tmp_path_factory.mktemp("papers")
    root_key = ec.generate_private_key(ec.SECP256R1())
    root = issue("authority", root_key, "authority", root_key)
    authority = folder / "authority.pem"
    authority.write_bytes(root.public_bytes(serialization.Encoding.PEM))

    def made(name: str, issuer: str, issuer_key: ec.EllipticCurvePrivateKey | None) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = issue(name, key, issuer, issuer_key or key)
        identity = Identity(folder / f"{name}.pem", folder / f"{name}.key")
        identity.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        identity.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return identity

    signed = ("authority", root_key)
    return Papers(authority, made("server", *signed), made("client", *signed), made("stranger", "stranger", None))


def issue(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    """A certificate of `name`, good for two days on this machine."""
    now = dt.datetime.now(dt.UTC)
    subject, by = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer))
    hosts = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(by).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - DAY).not_valid_after(now + DAY)
    builder = builder.add_extension(x509.BasicConstraints(ca=name == issuer, path_length=None), critical=True)
    return builder.add_extension(hosts, critical=False).sign(issuer_key, hashes.SHA256())


@pytest.fixture(params=TRANSPORTS)
def host(request: pytest.FixtureRequest, papers: Papers) -> Iterator[Host]:
    """A server over TLS that takes any client."""
    with Host(request.param, tls=TlsOptions(papers.server.certificate, papers.server.key)) as running:
        yield running


@pytest.fixture(params=TRANSPORTS)
def mutual(request: pytest.FixtureRequest, papers: Papers) -> Iterator[Host]:
    """A server over TLS that takes the clients of the authority alone."""
    tls = TlsOptions(papers.server.certificate, papers.server.key, papers.authority)
    with Host(request.param, tls=tls) as running:
        yield running


def echo(target: str, credentials: grpc.ChannelCredentials | None, data: bytes = b"abc") -> bytes:
    if credentials is None:
        channel = grpc.insecure_channel(target)
    else:
        channel = grpc.secure_channel(target, credentials, [("grpc.ssl_target_name_override", "localhost")])
    with channel:
        answer: bytes = channel.unary_unary("/t.T/Echo")(data, timeout=TIMEOUT_S)
        return answer


def refused(target: str, credentials: grpc.ChannelCredentials | None) -> bool:
    with pytest.raises(grpc.RpcError) as caught:
        echo(target, credentials)
    return caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_client_that_trusts_the_authority_is_served_over_tls(host: Host, papers: Papers) -> None:
    trusting = grpc.ssl_channel_credentials(papers.authority.read_bytes())
    assert echo(host.target, trusting) == b"abc"
    large = bytes(4 * 2**20 - 100)
    assert echo(host.target, trusting, large) == large


def test_a_client_that_does_not_trust_the_authority_takes_no_answer(host: Host, papers: Papers) -> None:
    assert refused(host.target, grpc.ssl_channel_credentials(papers.stranger.certificate.read_bytes()))


def test_a_client_that_speaks_plainly_is_not_served(host: Host) -> None:
    assert refused(host.target, None)


def test_a_client_with_a_certificate_of_the_authority_is_served(mutual: Host, papers: Papers) -> None:
    assert echo(mutual.target, papers.client.credentials(papers.authority)) == b"abc"


def test_a_client_without_a_certificate_is_not_served(mutual: Host, papers: Papers) -> None:
    assert refused(mutual.target, grpc.ssl_channel_credentials(papers.authority.read_bytes()))


def test_a_client_with_a_certificate_of_somebody_else_is_not_served(mutual: Host, papers: Papers) -> None:
    assert refused(mutual.target, papers.stranger.credentials(papers.authority))


def context(papers: Papers, *protocols: str) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=papers.authority)
    if protocols:
        made.set_alpn_protocols(list(protocols))
    return made


def test_http2_is_agreed_upon_by_alpn(host: Host, papers: Papers) -> None:
    with Peer(host.address, tls=context(papers, "h2")) as peer:
        assert peer.socket.selected_alpn_protocol() == "h2"
        peer.expect_served()


@pytest.mark.parametrize("protocols", [(), ("http/1.1",)], ids=["none", "another"])
def test_a_client_that_does_not_agree_upon_http2_is_not_served(
    host: Host, papers: Papers, protocols: tuple[str, ...]
) -> None:
    with (
        pytest.raises((ssl.SSLError, ConnectionError, AssertionError)),
        Peer(host.address, tls=context(papers, *protocols)) as peer,
    ):
        peer.expect_served()


def test_a_handshake_that_does_not_come_ends_the_connection(papers: Papers) -> None:
    tls = TlsOptions(papers.server.certificate, papers.server.key)
    with (
        Host("native", tls=tls, limits=Limits(handshake_timeout_s=0.3)) as host,
        Peer(host.address, preface=False) as silent,
    ):
        silent.expect_end()


def test_what_is_no_handshake_ends_the_connection(host: Host, papers: Papers) -> None:
    with Peer(host.address, preface=False) as peer:
        peer.send(h2.PREFACE, h2.settings())
        peer.expect_end()
    with Peer(host.address, tls=context(papers, "h2")) as honest:
        honest.expect_served()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_key_of_another_certificate_is_refused_at_the_start(transport, papers: Papers) -> None:
    tls = TlsOptions(papers.server.certificate, papers.client.key)
    with pytest.raises((InvalidArgument, Unavailable)), Host(transport, tls=tls):
        pass


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_certificate_that_is_not_there_is_named(transport, papers: Papers, tmp_path: Path) -> None:
    with (
        pytest.raises(InvalidArgument, match=r"absent\.pem"),
        Host(transport, tls=TlsOptions(tmp_path / "absent.pem", papers.server.key)),
    ):
        pass


# Unix sockets


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_unix_socket_serves_beside_the_port(transport, tmp_path: Path) -> None:
    path = tmp_path / "grpc.sock"
    with Host(transport, socket_path=path) as host:
        assert echo(f"unix:{path}", None) == b"abc"
        assert echo(host.target, None) == b"abc"
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert not path.exists()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_socket_that_another_server_left_behind_is_replaced(transport, tmp_path: Path) -> None:
    path = tmp_path / "grpc.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with Host(transport, socket_path=path):
        assert echo(f"unix:{path}", None) == b"abc"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_socket_that_somebody_listens_on_is_not_taken(transport, tmp_path: Path) -> None:
    path = tmp_path / "grpc.sock"
    with Host(transport, socket_path=path):
        with pytest.raises(Unavailable), Host(transport, socket_path=path):
            pass
        assert echo(f"unix:{path}", None) == b"abc"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_file_in_the_sockets_place_is_kept(transport, tmp_path: Path) -> None:
    path = tmp_path / "grpc.sock"
    path.write_text("precious")
    with pytest.raises(Unavailable), Host(transport, socket_path=path):
        pass
    assert path.read_text() == "precious"


# A whole server


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_server_is_told_of_mutual_tls_by_its_settings(
    transport: str, repository: Path, papers: Papers, tmp_path: Path
) -> None:
    environment = {
        "CORNET_GRPC_TLS_CERTIFICATE": str(papers.server.certificate),
        "CORNET_GRPC_TLS_KEY": str(papers.server.key),
        "CORNET_GRPC_TLS_CLIENT_CA": str(papers.authority),
    }
    options = ("--grpc-transport", transport, "--no-typed-endpoints")
    with ServerProcess(repository, *options, environment=environment) as server:
        one = triton.InferInput("x", [1, 1], "FP32")
        one.set_data_from_numpy(np.ones((1, 1), np.float32))
        client = triton.InferenceServerClient(
            server.grpc_address,
            ssl=True,
            root_certificates=str(papers.authority),
            private_key=str(papers.client.key),
            certificate_chain=str(papers.client.certificate),
        )
        with client:
            result = client.infer("half_plus_two", [one], client_timeout=TIMEOUT_S)
        assert result.as_numpy("y").tolist() == [[2.5]]
        assert server.stop() == 0

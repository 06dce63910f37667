"""TLS for the gRPC transports."""

import ssl
from pathlib import Path

from services.errors import InvalidArgument
from services.frontends.grpc.options import TlsOptions


def server_context(options: TlsOptions) -> ssl.SSLContext:
    """Python's context of the options, for HTTP/2: TLS 1.2 at least (RFC 9113 9.2), ALPN `h2`.

    Raises InvalidArgument where a file cannot be read or does not fit.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(options.certificate, options.key)
        if options.client_ca is not None:
            context.load_verify_locations(options.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise InvalidArgument(
            f"Expected PEM files of a certificate, its key and a client CA: {_named(options)}. Received: {error}."
        ) from error
    return context


def read_pem(path: Path) -> bytes:
    """The file's content. Raises InvalidArgument where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"Expected a PEM file at {path}. Received: {error.strerror}.") from error


def _named(options: TlsOptions) -> str:
    paths = (options.certificate, options.key, options.client_ca)
    return ", ".join(str(path) for path in paths if path is not None)

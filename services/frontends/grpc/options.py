"""What both gRPC transports can be told."""

from dataclasses import dataclass, field
from pathlib import Path

from services.frontends.grpc.http2.limits import Limits

MAX_MESSAGE_BYTES = 2**31 - 1
"""What TensorFlow Serving and Triton allow, in both directions."""


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """PEM files of the server's certificate chain and its key; with `client_ca`, clients must have a certificate of that."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class GrpcOptions:
    """`max_message_bytes` bounds what is received (beyond it: RESOURCE_EXHAUSTED). `reuse_port` lets several processes share
    the port. `compression` (`gzip` or `deflate`) compresses answers; compressed requests are taken either way.
    `socket_path` is a unix socket that is listened on as well. `limits` are the native transport's.
    """

    max_message_bytes: int = MAX_MESSAGE_BYTES
    reuse_port: bool = False
    compression: str | None = None
    tls: TlsOptions | None = None
    socket_path: Path | None = None
    limits: Limits = field(default_factory=Limits)

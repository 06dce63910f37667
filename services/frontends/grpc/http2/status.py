"""The end of a gRPC call on the wire: status, percent-encoded message, further trailing metadata.

Source: gRPC over HTTP2, "Responses".
"""

from base64 import b64encode

from services.frontends.grpc.call import MetadataPairs
from services.frontends.grpc.http2.hpack import literal

DETAILS = "grpc-status-details-bin"
"""Trailing metadata that carries a serialised google.rpc.Status, where an error has details."""

_BINARY = "-bin"
_KEPT = frozenset(range(0x20, 0x7F)) - {ord("%")}
_ESCAPED = tuple(bytes((byte,)) if byte in _KEPT else b"%%%02X" % byte for byte in range(256))


def percent_encoded(text: str) -> bytes:
    """The text as UTF-8, with everything but printable ASCII, and the percent sign, escaped."""
    data = text.encode(errors="replace")
    if data.isascii() and text.isprintable() and "%" not in text:
        return data
    return b"".join([_ESCAPED[byte] for byte in data])


def trailers(code: int, text: str = "", metadata: MetadataPairs = ()) -> bytes:
    """The header block of a call's trailers. It needs no table: every field is a literal."""
    block = literal(b"grpc-status", b"%d" % code)
    if text:
        block += literal(b"grpc-message", percent_encoded(text))
    return block + b"".join([_metadata(name, value) for name, value in metadata])


def _metadata(name: str, value: str | bytes) -> bytes:
    if name.endswith(_BINARY):
        raw = value if isinstance(value, bytes) else value.encode()
        return literal(name.encode(), b64encode(raw).rstrip(b"="))
    return literal(name.encode(), value if isinstance(value, bytes) else value.encode("ascii", errors="replace"))

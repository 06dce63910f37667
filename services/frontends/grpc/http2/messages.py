"""gRPC's message framing: a flag, a length, the message; and its compression.

Sources: gRPC over HTTP2, "Length-Prefixed-Message"; gRPC's compression.md.
"""

import zlib

from services.errors import CornetError, Internal, InvalidArgument, ResourceExhausted

PREFIX_BYTES = 5
IDENTITY = "identity"
ENCODINGS = (IDENTITY, "deflate", "gzip")
ACCEPTED_ENCODINGS = b"identity,deflate,gzip"

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""gRPC's deflate is zlib's format (RFC 1950), as HTTP's is."""


def prefix(size: int, *, compressed: bool = False) -> bytes:
    """What stands before a message of `size` bytes."""
    return compressed.to_bytes(1, "big") + size.to_bytes(PREFIX_BYTES - 1, "big")


def read_prefix(prefix: bytes, encoding: str, max_bytes: int) -> int:
    """The length of the message that five bytes announce.

    Raises ResourceExhausted where it is over `max_bytes`, and Internal where the flag means nothing.
    """
    flag, size = prefix[0], int.from_bytes(prefix[1:PREFIX_BYTES], "big")
    if flag > 1:
        raise Internal(f"Expected a message's compressed flag to be 0 or 1. Received: {flag}.")
    if flag == 1 and encoding == IDENTITY:
        raise Internal("Received a compressed message without a grpc-encoding that says how.")
    if size > max_bytes:
        raise too_large(size, max_bytes)
    return size


def too_large(size: int, max_bytes: int) -> CornetError:
    return ResourceExhausted(f"Received message larger than max ({size} vs. {max_bytes})")


def decompressed(data: bytes, encoding: str, max_bytes: int) -> bytes:
    """A compressed message's content, of which no more than `max_bytes` are ever made.

    Raises ResourceExhausted where there is more, and Internal where it is not what its encoding says.
    """
    inflater = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        content = inflater.decompress(data, max_bytes + 1)
    except zlib.error:
        raise Internal(f"Failed to decompress a message: expected {encoding}.") from None
    if len(content) > max_bytes:
        raise ResourceExhausted(f"Received message larger than max once decompressed ({max_bytes})")
    if not inflater.eof or inflater.unused_data:
        raise Internal(f"Failed to decompress a message: its {encoding} is cut off or followed by something else.")
    return content


def compressed(data: bytes, encoding: str) -> bytes:
    """The message in the encoding, `gzip` or `deflate`."""
    deflater = zlib.compressobj(wbits=_WINDOW_BITS[encoding])
    return deflater.compress(data) + deflater.flush()


def check_encoding(name: str | None) -> None:
    """Raises InvalidArgument for a compression of answers that gRPC does not have."""
    if name is not None and name not in _WINDOW_BITS:
        raise InvalidArgument(f"Expected a gRPC compression out of gzip, deflate. Received: {name!r}.")

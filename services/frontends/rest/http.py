"""The HTTP a route sees: a request that was read whole, an answer to send, bodies bounded and compressed."""

import asyncio
import gzip
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

from services.errors import InvalidArgument, PayloadTooLarge

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON = b"application/json"
BINARY = b"application/octet-stream"

_AUTODETECT = 32 + zlib.MAX_WBITS  # zlib's own word for gzip or zlib, whichever the header says
COMPRESS_FROM_BYTES = 1024
"""Shorter answers go as they are: compressing them costs more than the bytes saved."""
_THREAD_FROM_BYTES = 64 * 1024
"""From here compression is done in a thread, where it does not hold up the event loop."""
_LEVEL = 1
_LONGEST_LENGTH = 18
"""Digits of a Content-Length that could be within any limit."""


class ClientGone(Exception):
    """The client closed the connection before its request was read."""


@dataclass(slots=True)
class Request:
    """One request: its path's named parts as the route matched them, header names in lower case, the body inflated."""

    method: str
    path: str
    parts: Mapping[str, str]
    headers: Mapping[bytes, bytes]
    body: bytes = b""


@dataclass(slots=True)
class Response:
    """One answer. `compressible` lets it be compressed where the client accepts that."""

    body: bytes = b""
    status: int = 200
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = field(default=())
    compressible: bool = False

    async def send(self, send: Send, *, head: bool = False) -> None:
        """Send it; with `head` without the body, but with the body's length."""
        headers = [
            (b"content-type", self.content_type),
            (b"content-length", b"%d" % len(self.body)),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if head else self.body})


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], max_bytes: int) -> bytes:
    """The whole body, inflated if `Content-Encoding` is gzip or deflate; at most `max_bytes` as sent and as inflated.

    Raises PayloadTooLarge as soon as that is known: before anything is read where `Content-Length` says so. Raises
    InvalidArgument for another encoding or a body that does not follow its own, ClientGone when the client hangs up.
    """
    length = headers.get(b"content-length")
    if length is not None and length.isdigit() and (len(length) > _LONGEST_LENGTH or int(length) > max_bytes):
        raise _too_large(max_bytes, f"a Content-Length of {length.decode():.32}")
    body = await _read(receive, max_bytes)
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding in (b"identity", b""):
        return body
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        raise InvalidArgument(f"Expected Content-Encoding gzip, deflate or identity. Received: {encoding!r:.60}.")
    if len(body) < _THREAD_FROM_BYTES:
        return inflate(body, max_bytes)
    return await asyncio.to_thread(inflate, body, max_bytes)


def inflate(body: bytes, max_bytes: int) -> bytes:
    """A gzip (of one or more members) or zlib body unpacked. Never holds more than `max_bytes` and one byte of it."""
    parts: list[bytes] = []
    room = max_bytes + 1
    while body:
        stream = zlib.decompressobj(_AUTODETECT)
        try:
            part = stream.decompress(body, room)
        except zlib.error as error:
            raise InvalidArgument(f"Expected a body compressed as Content-Encoding says. Received: {error}.") from None
        parts.append(part)
        room -= len(part)
        if room <= 0:
            raise _too_large(max_bytes, "a compressed body that is larger")
        if not stream.eof:
            raise InvalidArgument("Expected a complete compressed body. Received: one that ends too early.")
        body = stream.unused_data
    return b"".join(parts)


async def compressed(response: Response, accept_encoding: bytes) -> Response:
    """The answer as the client prefers it: compressed where it asks for that and the answer is long enough to gain."""
    if not response.compressible or len(response.body) < COMPRESS_FROM_BYTES:
        return response
    encoding = preferred_encoding(accept_encoding)
    if encoding == b"identity":
        return response
    if len(response.body) < _THREAD_FROM_BYTES:
        response.body = _deflate(response.body, encoding)
    else:
        response.body = await asyncio.to_thread(_deflate, response.body, encoding)
    response.headers = (*response.headers, (b"content-encoding", encoding), (b"vary", b"accept-encoding"))
    return response


@lru_cache(maxsize=256)
def preferred_encoding(accept_encoding: bytes) -> bytes:
    """Gzip, deflate or identity: the one an Accept-Encoding header weighs highest, the first one named among equals."""
    best, best_weight = b"identity", 0.0
    for item in accept_encoding.lower().split(b","):
        name, _, weight_text = item.partition(b";q=")
        name = name.strip()
        try:
            weight = float(weight_text) if weight_text else 1.0
        except ValueError:
            continue
        if name in (b"gzip", b"deflate", b"identity") and weight > best_weight:
            best, best_weight = name, weight
    return best


async def _read(receive: Receive, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes, f"at least {size} bytes")
        if not message.get("more_body", False):
            return b"".join((*chunks, chunk)) if chunks else chunk
        chunks.append(chunk)


def _deflate(body: bytes, encoding: bytes) -> bytes:
    return gzip.compress(body, _LEVEL, mtime=0) if encoding == b"gzip" else zlib.compress(body, _LEVEL)


def _too_large(max_bytes: int, received: str) -> PayloadTooLarge:
    return PayloadTooLarge(f"Expected a body of at most {max_bytes} bytes. Received: {received}.")

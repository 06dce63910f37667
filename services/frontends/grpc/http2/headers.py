"""The head of a gRPC request: header fields in, a validated `Head` out, or why the request is refused.

Sources: RFC 9113 8.2 and 8.3 for what makes a request malformed; gRPC over HTTP2, "Requests", for the rest.
"""

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from services import errors
from services.frontends.grpc.call import MetadataPairs, Method
from services.frontends.grpc.http2.frames import PROTOCOL_ERROR, StreamFault
from services.frontends.grpc.http2.hpack import Field
from services.frontends.grpc.http2.messages import ENCODINGS, IDENTITY

TIMEOUT = b"grpc-timeout"

_MAX_KEPT = 256
_MAX_KEPT_BYTES = 2048

_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_REQUIRED = (b":method", b":scheme", b":path")
_HOP_BY_HOP = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
_OURS = frozenset(
    (b"content-type", b"te", b"content-length", b"host", TIMEOUT, b"grpc-encoding", b"grpc-accept-encoding")
)
"""Fields that are the transport's business; all others are the call's metadata."""

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_UNFIT_VALUE = re.compile(rb"[\x00\r\n]|\A[ \t]|[ \t]\Z")
_CONTENT_TYPE = re.compile(rb"application/grpc(?:[+;].*)?", re.IGNORECASE)
_DIGITS = re.compile(rb"[0-9]{1,18}")
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNIT_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer without a call: the HTTP status, and gRPC's own."""

    http_status: int
    code: int
    text: str
    accepted_encodings: bool = False


@dataclass(frozen=True, slots=True)
class Head:
    """What a request's header fields come to. `method` is None exactly where there is a `refusal`.

    `encoding` is that of compressed messages, `accepts` those the client takes; `content_length` is in bytes.
    """

    method: Method | None
    metadata: MetadataPairs = ()
    encoding: str = IDENTITY
    accepts: frozenset[str] = frozenset()
    content_length: int | None = None
    refusal: Refusal | None = None


TimedHead: TypeAlias = tuple[Head, float | None]
"""A head and the call's timeout in seconds."""


class HeadReader:
    """Reads heads against a method table, and remembers those it has seen: clients repeat all but the timeout."""

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = {name.encode(): method for name, method in methods.items()}
        self._kept: dict[tuple[Field, ...], Head] = {}

    def read(self, fields: list[Field], size: int) -> TimedHead:
        """The head of a request whose fields count for `size` bytes. Raises StreamFault where they are malformed."""
        timeouts = [value for name, value, _ in fields if name == TIMEOUT]
        key = tuple([field for field in fields if field[0] != TIMEOUT] if timeouts else fields)
        head = self._kept.get(key)
        if head is None:
            head = self._head(key)
            if size <= _MAX_KEPT_BYTES:
                if len(self._kept) >= _MAX_KEPT:
                    self._kept.clear()
                self._kept[key] = head
        if not timeouts or head.refusal is not None:
            return head, None
        timeout = _TIMEOUT.fullmatch(timeouts[0]) if len(timeouts) == 1 else None
        if timeout is None:
            return refused(400, errors.INTERNAL, f"Malformed grpc-timeout: {_shown(timeouts[0])}."), None
        return head, int(timeout[1]) * _UNIT_S[timeout[2]]

    def _head(self, fields: Iterable[Field]) -> Head:
        pseudo, regular = _checked(fields)
        if any(name not in pseudo for name in _REQUIRED) or not pseudo[b":path"]:
            raise StreamFault(PROTOCOL_ERROR, "the request lacks one of :method, :scheme and :path")
        known = dict(regular)
        length = known.get(b"content-length")
        if length is not None and (
            _DIGITS.fullmatch(length) is None
            or any(value != length for name, value in regular if name == b"content-length")
        ):
            raise StreamFault(PROTOCOL_ERROR, "content-length is not a number")
        refusal = self._refusal(pseudo, known)
        if refusal is not None:
            return refusal
        try:
            metadata = tuple(pair for name, value in regular if name not in _OURS for pair in _metadata(name, value))
        except (Base64Error, ValueError):
            return refused(400, errors.INTERNAL, "Malformed binary metadata: expected base64.")
        accepted = known.get(b"grpc-accept-encoding", b"").decode("latin-1").split(",")
        return Head(
            self._methods[pseudo[b":path"]],
            metadata,
            known.get(b"grpc-encoding", IDENTITY.encode()).decode(),
            frozenset(name.strip() for name in accepted) - {""},
            None if length is None else int(length),
        )

    def _refusal(self, pseudo: Mapping[bytes, bytes], known: Mapping[bytes, bytes]) -> Head | None:
        """Why a well-formed HTTP request is no gRPC request that can be served."""
        if _CONTENT_TYPE.fullmatch(known.get(b"content-type", b"")) is None:
            received = _shown(known.get(b"content-type", b""))
            return refused(
                415, errors.INVALID_ARGUMENT, f"Expected content-type application/grpc. Received: {received}."
            )
        if pseudo[b":method"] != b"POST":
            return refused(405, errors.INTERNAL, f"Expected method POST. Received: {_shown(pseudo[b':method'])}.")
        if b"te" not in known:
            return refused(200, errors.UNKNOWN, "Expected the header te: trailers. Received: none.")
        if pseudo[b":path"] not in self._methods:
            return refused(200, errors.UNIMPLEMENTED, "Method not found!")
        encoding = known.get(b"grpc-encoding", b"identity")
        if encoding.decode("latin-1") not in ENCODINGS:
            text = f"Compression {_shown(encoding)} is not supported. Expected one of: {', '.join(ENCODINGS)}."
            return refused(200, errors.UNIMPLEMENTED, text, accepted_encodings=True)
        return None


def check_trailers(fields: Iterable[Field]) -> None:
    """Raises StreamFault where the trailers of a request are malformed. What they say is of no use to a call."""
    pseudo, _ = _checked(fields)
    if pseudo:
        raise StreamFault(PROTOCOL_ERROR, "there is a pseudo-header in the trailers")


def refused(http_status: int, code: int, text: str, *, accepted_encodings: bool = False) -> Head:
    """The head of a request that is answered at once."""
    return Head(None, refusal=Refusal(http_status, code, text, accepted_encodings))


def is_grpc(fields: Iterable[Field]) -> bool:
    """Whether fields that were perhaps cut short say that the request is gRPC's."""
    return any(name == b"content-type" and _CONTENT_TYPE.fullmatch(value) for name, value, _ in fields)


def _checked(fields: Iterable[Field]) -> tuple[dict[bytes, bytes], list[tuple[bytes, bytes]]]:
    """Pseudo-headers and regular fields. Raises StreamFault where RFC 9113 calls them malformed."""
    pseudo: dict[bytes, bytes] = {}
    regular: list[tuple[bytes, bytes]] = []
    for name, value, _ in fields:
        if _UNFIT_VALUE.search(value):
            raise StreamFault(PROTOCOL_ERROR, "a header value has a character that it must not have")
        if name[:1] == b":":
            if regular or name in pseudo or name not in _PSEUDO:
                raise StreamFault(PROTOCOL_ERROR, "a pseudo-header is unknown, repeated or out of place")
            pseudo[name] = value
        elif _NAME.fullmatch(name) is None or name in _HOP_BY_HOP or (name == b"te" and value != b"trailers"):
            raise StreamFault(PROTOCOL_ERROR, "a header must not be in HTTP/2, or its name has a wrong character")
        else:
            regular.append((name, value))
    return pseudo, regular


def _metadata(name: bytes, value: bytes) -> list[tuple[str, str | bytes]]:
    """A field as metadata. Binary values come in base64, with or without padding, several joined by commas."""
    key = name.decode()
    if not key.endswith("-bin"):
        return [(key, value.decode("latin-1"))]
    parts = [part.strip(b" \t").rstrip(b"=") for part in value.split(b",")]
    return [(key, b64decode(part + b"=" * (-len(part) % 4), validate=True)) for part in parts]


def _shown(value: bytes) -> str:
    return ascii(value[:100].decode("latin-1"))

"""The head of a gRPC request: header fields in, a validated `Head` out, or why the request is refused.

Sources: RFC 9113 8.2 and 8.3 for what makes a request malformed; gRPC over HTTP2, "Requests", for the rest.
"""

import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from services import errors
from services.frontends.grpc.call import MetadataPairs, Method
from services.frontends.grpc.http2.frames import PROTOCOL_ERROR, StreamFault
from services.frontends.grpc.http2.hpack import Field
from services.frontends.grpc.http2.messages import ENCODINGS, IDENTITY
from services.telemetry.exchange import REQUEST_ID, fit_request_id

TIMEOUT = b"grpc-timeout"
_REQUEST_ID = REQUEST_ID.encode()
_OWN = frozenset(
    (
        TIMEOUT,
        _REQUEST_ID,
        b"traceparent",
        b"tracestate",
        b"baggage",
        b"grpc-trace-bin",
        b"x-b3-traceid",
        b"x-b3-spanid",
    )
)
"""Fields that differ from one request to the next: heads are remembered without them."""

_MAX_KEPT = 256
_Checked: TypeAlias = tuple[bytes, "list[tuple[str, str | bytes]] | None"]
"""A field's name, and the metadata it comes to: nothing where it is not metadata, None where it is none that can be read."""

_MAX_KEPT_BYTES = 2048

_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))
_REQUIRED = (b":method", b":scheme", b":path")
_HOP_BY_HOP = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
_OURS = frozenset(
    (b"content-type", b"te", b"content-length", b"host", TIMEOUT, b"grpc-encoding", b"grpc-accept-encoding")
)
"""Fields that are the transport's business; all others are the call's metadata."""

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_MALFORMED_BINARY = "Malformed binary metadata: expected base64."
_PLAIN_VALUE = re.compile(rb"[!-~]*")
"""Most values. It is found in a tenth of the time that looking for what is unfit takes."""
_UNFIT_VALUE = re.compile(rb"[\x00\r\n]|\A[ \t]|[ \t]\Z")
_CONTENT_TYPE = re.compile(rb"application/grpc(?:[+;].*)?", re.IGNORECASE)
_LENGTH = re.compile(rb"[0-9]{1,18}")
_TIMEOUT_DIGITS = 8
_UNIT_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer without a call: the HTTP status, and gRPC's own."""

    http_status: int
    code: int
    text: str
    accepted_encodings: bool = False


class Head(NamedTuple):
    """What a request's header fields come to. `method` is None exactly where there is a `refusal`.

    `encoding` is that of compressed messages, `accepts` those the client takes; `content_length` is in bytes; `request_id`
    is the client's own, "" where it has none that is fit to repeat.
    """

    method: Method | None
    metadata: MetadataPairs = ()
    encoding: str = IDENTITY
    accepts: frozenset[str] = frozenset()
    content_length: int | None = None
    request_id: str = ""
    refusal: Refusal | None = None


TimedHead: TypeAlias = tuple[Head, float | None]
"""A head and the call's timeout in seconds."""


class HeadReader:
    """Reads heads against a method table.

    It remembers heads, as clients repeat all but the timeout and what names or traces the request, and what became of
    single fields, for clients that vary more than that.
    """

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = {name.encode(): method for name, method in methods.items()}
        self._heads: dict[tuple[Field, ...], Head] = {}
        self._fields: dict[Field, _Checked] = {}

    def read(self, fields: list[Field], size: int) -> TimedHead:
        """The head of a request whose fields count for `size` bytes. Raises StreamFault where they are malformed."""
        own = [field for field in fields if field[0] in _OWN]
        if not own:
            return self._shared(tuple(fields), size), None
        if fields[-len(own) :] == own:  # as encoders have them
            head = self._shared(tuple(fields[: -len(own)]), size)
        else:
            head = self._shared(tuple([field for field in fields if field[0] not in _OWN]), size)
            if any(name[:1] == b":" for name, _, _ in fields[fields.index(own[0]) :]):
                raise StreamFault(PROTOCOL_ERROR, "a pseudo-header is out of place")
        return _with_own(head, own)

    def _shared(self, fields: tuple[Field, ...], size: int) -> Head:
        """The head of the fields that many requests have alike."""
        head = self._heads.get(fields)
        if head is None:
            head = self._head(fields)
            if size <= _MAX_KEPT_BYTES:
                if len(self._heads) >= _MAX_KEPT:
                    self._heads.clear()
                self._heads[fields] = head
        return head

    def _head(self, fields: Iterable[Field]) -> Head:
        pseudo: dict[bytes, bytes] = {}
        known: dict[bytes, bytes] = {}
        metadata: list[tuple[str, str | bytes]] = []
        malformed, regular = False, False
        for field in fields:
            name, pairs = self._fields.get(field) or self._check(field)
            if name[:1] == b":":
                if regular or name in pseudo:
                    raise StreamFault(PROTOCOL_ERROR, "a pseudo-header is repeated or out of place")
                pseudo[name] = field[1]
                continue
            regular = True
            if pairs is None:
                malformed = True
            elif pairs:
                metadata += pairs
            elif name == b"content-length" and known.get(name, field[1]) != field[1]:
                raise StreamFault(PROTOCOL_ERROR, "content-length is given twice")
            else:
                known[name] = field[1]
        if any(not pseudo.get(name) for name in _REQUIRED):
            raise StreamFault(PROTOCOL_ERROR, "the request lacks one of :method, :scheme and :path")
        refusal = self._refusal(pseudo, known)
        if refusal is not None:
            return refusal
        if malformed:
            return refused(400, errors.INTERNAL, _MALFORMED_BINARY)
        length = known.get(b"content-length")
        accepted = known.get(b"grpc-accept-encoding", b"").decode("latin-1").split(",")
        return Head(
            self._methods[pseudo[b":path"]],
            tuple(metadata),
            known.get(b"grpc-encoding", IDENTITY.encode()).decode(),
            frozenset([name.strip() for name in accepted if name]),
            None if length is None else int(length),
        )

    def _check(self, field: Field) -> "_Checked":
        """What the field is, to be remembered. Raises StreamFault."""
        name, value, size = field
        check_field(name, value)
        pairs: list[tuple[str, str | bytes]] | None = []
        if name not in _OURS and name[:1] != b":":
            try:
                pairs = _metadata(name, value)
            except ValueError:
                pairs = None
        if size <= _MAX_KEPT_BYTES:
            if len(self._fields) >= _MAX_KEPT:
                self._fields.clear()
            self._fields[field] = name, pairs
        return name, pairs

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


def _with_own(head: Head, own: Iterable[Field]) -> TimedHead:
    """The head with the fields that no other request has, and the timeout among them. Raises StreamFault."""
    timeout_s, refusal = None, head.refusal
    metadata, request_id = [*head.metadata], head.request_id
    for name, value, _ in own:
        if name == TIMEOUT:
            timeout_s = _timeout_s(value)
            if timeout_s is None:
                refusal = refusal or Refusal(400, errors.INTERNAL, f"Malformed grpc-timeout: {_shown(value)}.")
            continue
        check_value(value)  # the name is one of those known
        try:
            metadata += _metadata(name, value)
        except ValueError:
            refusal = refusal or Refusal(400, errors.INTERNAL, _MALFORMED_BINARY)
        if name == _REQUEST_ID:
            request_id = fit_request_id(value.decode("latin-1"))
    if refusal is not None:
        return Head(None, refusal=refusal), timeout_s
    return Head(head.method, tuple(metadata), head.encoding, head.accepts, head.content_length, request_id), timeout_s


def _timeout_s(value: bytes) -> float | None:
    """Seconds of a grpc-timeout, None for none that can be read."""
    digits, unit_s = value[:-1], _UNIT_S.get(value[-1:])
    if unit_s is None or not digits.isdigit() or len(digits) > _TIMEOUT_DIGITS:
        return None
    return int(digits) * unit_s


def check_trailers(fields: Iterable[Field]) -> None:
    """Raises StreamFault where the trailers of a request are malformed. What they say is of no use to a call."""
    for name, value, _ in fields:
        check_field(name, value)
        if name[:1] == b":":
            raise StreamFault(PROTOCOL_ERROR, "there is a pseudo-header in the trailers")


def refused(http_status: int, code: int, text: str, *, accepted_encodings: bool = False) -> Head:
    """The head of a request that is answered at once."""
    return Head(None, refusal=Refusal(http_status, code, text, accepted_encodings))


def is_grpc(fields: Iterable[Field]) -> bool:
    """Whether fields that were perhaps cut short say that the request is gRPC's."""
    return any(name == b"content-type" and _CONTENT_TYPE.fullmatch(value) for name, value, _ in fields)


def check_field(name: bytes, value: bytes) -> None:
    """Raises StreamFault where RFC 9113 calls the field malformed, wherever it stands."""
    check_value(value)
    if name[:1] == b":":
        if name not in _PSEUDO:
            raise StreamFault(PROTOCOL_ERROR, "a pseudo-header is unknown")
    elif _NAME.fullmatch(name) is None or name in _HOP_BY_HOP or (name == b"te" and value != b"trailers"):
        raise StreamFault(PROTOCOL_ERROR, "a header must not be in HTTP/2, or its name has a wrong character")
    elif name == b"content-length" and _LENGTH.fullmatch(value) is None:
        raise StreamFault(PROTOCOL_ERROR, "content-length is not a number")


def check_value(value: bytes) -> None:
    """Raises StreamFault where RFC 9113 calls a field of that value malformed."""
    if _PLAIN_VALUE.fullmatch(value) is None and _UNFIT_VALUE.search(value):
        raise StreamFault(PROTOCOL_ERROR, "a header value has a character that it must not have")


def _metadata(name: bytes, value: bytes) -> list[tuple[str, str | bytes]]:
    """A field as metadata. Binary values come in base64, with or without padding, several joined by commas."""
    key = name.decode()
    if not key.endswith("-bin"):
        return [(key, value.decode("latin-1"))]
    parts = [part.strip(b" \t").rstrip(b"=") for part in value.split(b",")]
    return [(key, b64decode(part + b"=" * (-len(part) % 4), validate=True)) for part in parts]


def _shown(value: bytes) -> str:
    return ascii(value[:100].decode("latin-1"))

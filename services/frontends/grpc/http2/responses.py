"""The header blocks of answers, as one connection sends them.

The three fields that every good answer repeats enter the client's HPACK table with the first one; after that a head is two
bytes and the trailers three and the request's id. Everything else is sent as literals, which need no table.
"""

from services.frontends.grpc.http2.hpack import DEFAULT_TABLE_BYTES, integer, literal, string
from services.frontends.grpc.http2.status import trailers
from services.telemetry.exchange import REQUEST_ID

_CONTENT_TYPE = b"application/grpc"
_OK = b"\x88"
"""`:status: 200`, in the static table."""
_STATUS_INDEX = 8
_INDEXED_STATUS = {200: _OK, 400: b"\x8c", 404: b"\x8d", 500: b"\x8e"}

_CONTENT_TYPE_INDEX = 31
_LITERAL_CONTENT_TYPE = integer(_CONTENT_TYPE_INDEX, 0x0F) + string(_CONTENT_TYPE)
_FIRST_HEAD = _OK + integer(_CONTENT_TYPE_INDEX, 0x3F, 0x40) + string(_CONTENT_TYPE)
_FIRST_TRAILERS = b"\x40" + string(b"grpc-status") + string(b"0") + b"\x40" + string(REQUEST_ID.encode())
_PLAIN_HEAD = _OK + _LITERAL_CONTENT_TYPE

# The dynamic table's entries are numbered from the latest: request id 62, status 63, content type 64.
HEAD = _OK + b"\xc0"
"""The head of a good answer once the table is filled."""
TRAILERS = b"\xbf" + integer(62, 0x0F)
"""The trailers of a good answer, once the table is filled, up to the request id's string."""

_EMPTY_TABLE = b"\x20"


class Responses:
    """What the client's table holds. `filled` says whether `HEAD` and `TRAILERS` may be sent.

    Blocks must be sent in the order they were asked for.
    """

    __slots__ = ("_may_fill", "_resize", "filled")

    def __init__(self) -> None:
        self.filled = False
        self._may_fill = True
        self._resize = b""

    def resize(self, table_bytes: int) -> None:
        """The client's SETTINGS_HEADER_TABLE_SIZE. One that gives less than is usual gets literals alone from now on."""
        if table_bytes < DEFAULT_TABLE_BYTES:
            self.filled = self._may_fill = False
            self._resize = _EMPTY_TABLE

    def good(self, request_id: bytes) -> tuple[bytes, bytes]:
        """Head and trailers of a good answer that is sent at once, whole; the first one fills the table."""
        if self.filled:
            return HEAD, TRAILERS + string(request_id)
        if not self._may_fill:
            return self.head(), trailers(0, "", ((REQUEST_ID, request_id),))
        self.filled = True
        return _FIRST_HEAD, _FIRST_TRAILERS + string(request_id)

    def head(self, encoding: str | None = None) -> bytes:
        """The head of an answer, with its compression."""
        block = self.take_resize() + (HEAD if self.filled else _PLAIN_HEAD)
        return block if encoding is None else block + literal(b"grpc-encoding", encoding.encode())

    def only(self, http_status: int, block: bytes) -> bytes:
        """Head and trailers in one: an answer without a message, `block` being the trailers."""
        status = _INDEXED_STATUS.get(http_status) or integer(_STATUS_INDEX, 0x0F) + string(b"%d" % http_status)
        return status + _LITERAL_CONTENT_TYPE + block

    def take_resize(self) -> bytes:
        """What must come before the next block, once: the table is emptied, where the client made it smaller."""
        resize, self._resize = self._resize, b""
        return resize

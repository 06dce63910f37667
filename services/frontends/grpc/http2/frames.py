"""The frames of HTTP/2 (RFC 9113 4 and 6): their numbers, and the writing of the small ones."""

from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES = 9
MAX_FRAME_BYTES = 2**14
"""Largest payload taken, and largest a peer takes without being asked (SETTINGS_MAX_FRAME_SIZE's initial value)."""
MAX_FRAME_BYTES_LIMIT = 2**24 - 1
MAX_WINDOW = 2**31 - 1
MAX_STREAM_ID = 2**31 - 1
INITIAL_WINDOW = 2**16 - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITISED = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)

NO_ERROR = 0x0
PROTOCOL_ERROR = 0x1
INTERNAL_ERROR = 0x2
FLOW_CONTROL_ERROR = 0x3
SETTINGS_TIMEOUT = 0x4
STREAM_CLOSED = 0x5
FRAME_SIZE_ERROR = 0x6
REFUSED_STREAM = 0x7
CANCEL = 0x8
COMPRESSION_ERROR = 0x9
CONNECT_ERROR = 0xA
ENHANCE_YOUR_CALM = 0xB

HEAD = Struct(">IBI")
"""A frame's head: length (24 bits) and type (8) in one number, flags, stream."""
SETTING = Struct(">HI")

_NUMBER = Struct(">I")
_NUMBERS = Struct(">II")


class ConnectionFault(Exception):
    """The peer broke the connection's rules: it ends with GOAWAY of this `code`, and `reason` in its debug data."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class StreamFault(Exception):
    """The peer broke a stream's rules: RST_STREAM of this `code` ends it, and the connection goes on."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def head(kind: int, flags: int, stream: int, size: int) -> bytes:
    """A frame's head, of a payload of `size` bytes."""
    return HEAD.pack(size << 8 | kind, flags, stream)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Any frame. The payload must not be longer than the peer takes."""
    return head(kind, flags, stream, len(payload)) + payload


def settings(values: dict[int, int]) -> bytes:
    """SETTINGS of (identifier, value) pairs."""
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(*pair) for pair in values.items()))


def window_update(stream: int, increment: int) -> bytes:
    """WINDOW_UPDATE; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, _NUMBER.pack(increment))


def rst_stream(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, _NUMBER.pack(code))


def goaway(last_stream: int, code: int, reason: str = "") -> bytes:
    """GOAWAY: streams up to `last_stream` may still be answered."""
    return frame(GOAWAY, 0, 0, _NUMBERS.pack(last_stream, code) + reason.encode())


SETTINGS_ACK = frame(SETTINGS, ACK, 0)

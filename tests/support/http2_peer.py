"""A raw HTTP/2 client over one blocking socket, which sends any bytes and reads frames: RFC 9113 from the other side.

    with Peer(address) as peer:
        answer = peer.call("/t.T/Echo", b"data")            # an honest gRPC call
        peer.send(h2.window_update(0, 0))                   # whatever is to be tried
        peer.expect_connection_error(h2.PROTOCOL_ERROR)

It acknowledges the server's settings and PINGs, heeds the server's windows when it sends messages, and opens its own as it
reads, unless told otherwise. What the server sends is parsed by hyperframe and hpack, which refuse what is malformed. No
wait is longer than `TIMEOUT_S`.
"""

import contextlib
import itertools
import socket
import ssl
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote_to_bytes

import http2_frames as h2
from hpack import Decoder, Encoder
from hyperframe import frame as frames

TIMEOUT_S = 10.0

Address = tuple[str, int] | str
Fields = Iterable[tuple[str | bytes, str | bytes]]


class Closed(AssertionError):
    """The connection ended, or fell silent, while something else was waited for."""


class _Gone(Exception):
    """End of file, or a reset."""


@dataclass
class Answer:
    """What came back on one stream: messages as they came, with their flags; `reset` is a RST_STREAM's code.

    `fields` and `trailers` are the same of an answer that is trailers only.
    """

    fields: dict[str, str] = field(default_factory=dict)
    trailers: dict[str, str] = field(default_factory=dict)
    messages: list[bytes] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    header_blocks: int = 0
    reset: int | None = None

    @property
    def status(self) -> int | None:
        """The gRPC status; None where there is none."""
        text = self.trailers.get("grpc-status")
        return None if text is None else int(text)

    @property
    def text(self) -> str:
        """The gRPC message, decoded."""
        return unquote_to_bytes(self.trailers.get("grpc-message", "")).decode()

    @property
    def data(self) -> bytes:
        """The one message of a call that succeeded."""
        assert (self.fields.get(":status"), self.status) == ("200", 0), self
        (only,) = self.messages
        return only


class Peer:
    """One connection. `settings` go into the preface; `preface=False` sends nothing at all by itself.

    `window` and `windows` are what the server lets us send, on the connection and by stream; `backlog` are the frames that
    were read and not taken yet.
    """

    def __init__(
        self,
        address: Address,
        *,
        settings: Iterable[tuple[int, int]] = (),
        preface: bool = True,
        tls: ssl.SSLContext | None = None,
        receive_buffer_bytes: int | None = None,
        opens_windows: bool = True,
    ) -> None:
        self.socket = _connect(address, tls, receive_buffer_bytes)
        self.encoder = Encoder()
        self.decoder = Decoder(max_header_list_size=2**24)
        self.opens_windows = opens_windows
        self.acknowledges = True
        self.server_settings: dict[int, int] = {}
        self.window = h2.DEFAULT_WINDOW
        self.windows: dict[int, int] = {}
        self.received_bytes = 0
        self.largest_frame_bytes = 0
        self.backlog: list[Any] = []
        self._buffer = bytearray()
        self._open_block: Any = None
        self._streams = itertools.count(1, 2)
        self._pings = itertools.count(2**63)
        if preface:
            self.send(h2.PREFACE, h2.settings(*settings))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> bool:
        """Whether the server still took it; what it said before it closed is left to be read."""
        try:
            self.socket.sendall(b"".join(parts))
        except (ConnectionError, ssl.SSLError):
            return False
        return True

    def hang_up(self) -> None:
        """Close our side: no more will come."""
        with contextlib.suppress(OSError):  # the server may have been quicker
            self.socket.shutdown(socket.SHUT_WR)

    # Calls

    def next_stream(self) -> int:
        """The identifier of the stream after the last."""
        stream = next(self._streams)
        self.windows[stream] = self.server_settings.get(h2.INITIAL_WINDOW_SIZE, h2.DEFAULT_WINDOW)
        return stream

    def encode(self, fields: Fields) -> bytes:
        block: bytes = self.encoder.encode(list(fields))
        return block

    def open(self, method: str = "/t.T/Echo", extra: Fields = (), flags: int = h2.END_HEADERS) -> int:
        """Begin a call: its headers, and no data. Returns the stream."""
        stream = self.next_stream()
        self.send(h2.headers(stream, self.encode(request_fields(method, extra)), flags))
        return stream

    def send_data(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """DATA frames, as the server's windows let them through."""
        view, at = memoryview(data), 0
        while at < len(view):
            room = min(self.window, self.windows[stream], h2.DEFAULT_FRAME_SIZE, len(view) - at)
            if room <= 0:
                self.pump("room to send")
                continue
            flags = h2.END_STREAM if end and at + room == len(view) else 0
            self.send(h2.data(stream, bytes(view[at : at + room]), flags))
            self.window -= room
            self.windows[stream] -= room
            at += room
        if end and not data:
            self.send(h2.data(stream, b"", h2.END_STREAM))

    def send_message(self, stream: int, data: bytes, *, end: bool = False, flag: int = 0) -> None:
        self.send_data(stream, h2.message(data, flag), end=end)

    def call(self, method: str, data: bytes = b"", extra: Fields = (), *, at_once: bool = False) -> Answer:
        """A unary call from its headers to its trailers; sent in one piece, where it is to be `at_once`."""
        stream = self.ask(method, data, extra) if at_once else self.open(method, extra)
        if not at_once:
            self.send_message(stream, data, end=True)
        return self.answer(stream)

    def ask(self, method: str, data: bytes = b"", extra: Fields = ()) -> int:
        """All of a small unary call in one write. Returns the stream."""
        stream, body = self.next_stream(), h2.message(data)
        self.send(h2.headers(stream, self.encode(request_fields(method, extra))), h2.data(stream, body, h2.END_STREAM))
        self.window -= len(body)
        return stream

    def answer(self, stream: int) -> Answer:
        """Read up to the end of `stream`. Raises Closed where the connection ends before."""
        answer, data, ended = Answer(), bytearray(), False
        while not ended:
            seen = self.wait(lambda frame: frame.stream_id == stream, f"the end of stream {stream} after {answer}")
            if isinstance(seen, frames.RstStreamFrame):
                answer.reset = seen.error_code
                return answer
            ended = "END_STREAM" in seen.flags
            if isinstance(seen, frames.DataFrame):
                data += seen.data
            elif isinstance(seen, frames.HeadersFrame):
                answer.fields = answer.fields or dict(seen.fields)
                answer.trailers = dict(seen.fields)
                answer.header_blocks += 1
        answer.flags, answer.messages = _split(bytes(data))
        return answer

    def headers_of(self, stream: int) -> dict[str, str]:
        """The next header block of `stream`."""
        return dict(self.wait(lambda f: f.stream_id == stream and isinstance(f, frames.HeadersFrame), "HEADERS").fields)

    def data_of(self, stream: int) -> bytes:
        """The next DATA frame's content on `stream`."""
        data: bytes = self.wait(lambda f: f.stream_id == stream and isinstance(f, frames.DataFrame), "DATA").data
        return data

    # What is to be seen

    def expect_connection_error(self, *codes: int) -> str:
        """A GOAWAY with one of `codes`, and the end of the connection. Returns the GOAWAY's text."""
        seen = self.wait(lambda frame: isinstance(frame, frames.GoAwayFrame) and frame.error_code, "an erring GOAWAY")
        assert seen.error_code in codes, seen
        self.expect_end()
        return str(seen.additional_data, "utf-8", "replace")

    def expect_flow_control_error(self, stream: int) -> None:
        """FLOW_CONTROL_ERROR, on the stream or on the connection (RFC 9113, 6.9 leaves it open)."""

        def erring(seen: Any) -> bool:
            return isinstance(seen, frames.GoAwayFrame) or (
                isinstance(seen, frames.RstStreamFrame) and seen.stream_id == stream
            )

        assert self.wait(erring, "an error").error_code == h2.FLOW_CONTROL_ERROR

    def expect_stream_error(self, stream: int, *codes: int) -> None:
        """A RST_STREAM with one of `codes`, on a connection that goes on."""
        seen = self.wait(lambda f: f.stream_id == stream and isinstance(f, frames.RstStreamFrame), "RST_STREAM")
        assert seen.error_code in codes, seen
        self.expect_alive()

    def expect_alive(self) -> None:
        """The server has taken in all that was sent, and goes on."""
        data = struct.pack(">Q", next(self._pings))
        self.send(h2.ping(data))
        self.wait(lambda frame: isinstance(frame, frames.PingFrame) and frame.opaque_data == data, "a PING's echo")

    def expect_end(self) -> None:
        """The server closes the connection, whatever it still sends before."""
        try:
            while True:
                self._read()
        except _Gone:
            return
        except TimeoutError:
            raise Closed(f"Expected the connection's end. Received: {self.backlog}, then silence") from None

    def expect_served(self) -> None:
        """An honest call on this connection gets its right answer."""
        assert self.call("/t.T/Echo", b"honest").data == b"honest"

    def seen_on(self, stream: int) -> list[Any]:
        """What came on `stream` and was not taken yet, up to an echo of what was sent last."""
        self.expect_alive()
        return [frame for frame in self.backlog if frame.stream_id == stream]

    def wait(self, wanted: Callable[[Any], object], what: str) -> Any:
        """The first frame that is wanted and was not taken yet; a whole header block is one frame, with its `fields`."""
        at = 0
        while True:
            while at < len(self.backlog):
                if wanted(self.backlog[at]):
                    return self.backlog.pop(at)
                at += 1
            self.pump(what)

    def pump_until(self, condition: Callable[[], object], what: str) -> None:
        """Take in frames, to be taken later, until the condition holds."""
        while not condition():
            self.pump(what)

    def pump(self, what: str) -> None:
        """Take in one frame, to be taken later. Raises Closed, saying what was waited for, where none comes."""
        try:
            self._read()
        except (_Gone, TimeoutError) as end:
            how = "silence" if isinstance(end, TimeoutError) else "the connection's end"
            raise Closed(f"Expected {what}. Received: {self.backlog}, then {how}") from None

    # Reading

    def _read(self) -> None:
        """Take in one frame. Raises _Gone at the end of the connection, TimeoutError where nothing comes."""
        header = memoryview(self._take(9))
        seen, length = frames.Frame.parse_frame_header(header)
        seen.parse_body(memoryview(self._take(length)))
        self.largest_frame_bytes = max(self.largest_frame_bytes, length)
        if self._open_block is not None:
            assert isinstance(seen, frames.ContinuationFrame), f"{seen} within the block of {self._open_block}"
        self._heed(seen)
        if isinstance(seen, frames.HeadersFrame | frames.ContinuationFrame):
            self._collect(seen)
        else:
            self.backlog.append(seen)

    def _heed(self, seen: Any) -> None:
        """Keep the state that the server's frame changes, and answer it where that is due."""
        if isinstance(seen, frames.SettingsFrame):
            self._heed_settings(seen)
        elif isinstance(seen, frames.WindowUpdateFrame):
            if not seen.stream_id:
                self.window += seen.window_increment
            elif seen.stream_id in self.windows:
                self.windows[seen.stream_id] += seen.window_increment
        elif isinstance(seen, frames.PingFrame) and "ACK" not in seen.flags and self.acknowledges:
            self.send(h2.ping(seen.opaque_data, h2.ACK))
        elif isinstance(seen, frames.DataFrame):
            size = seen.flow_controlled_length
            self.received_bytes += size
            if self.opens_windows and size:
                ended = "END_STREAM" in seen.flags
                self.send(h2.window_update(0, size), b"" if ended else h2.window_update(seen.stream_id, size))

    def _heed_settings(self, seen: Any) -> None:
        if "ACK" in seen.flags:
            return
        before = self.server_settings.get(h2.INITIAL_WINDOW_SIZE, h2.DEFAULT_WINDOW)
        self.server_settings |= seen.settings
        grown = self.server_settings.get(h2.INITIAL_WINDOW_SIZE, h2.DEFAULT_WINDOW) - before
        for stream in self.windows:
            self.windows[stream] += grown
        if self.acknowledges:
            self.send(h2.settings_ack())

    def _collect(self, seen: Any) -> None:
        """Put a header block together; the block is decoded, and the frame listed, once it is whole."""
        first = self._open_block
        if first is None:
            first = seen
        else:
            assert seen.stream_id == first.stream_id, f"{seen} within the block of {first}"
            first.data += seen.data
        if "END_HEADERS" in seen.flags:
            pairs = self.decoder.decode(first.data, raw=True)
            first.fields = [(str(name, "latin-1"), str(value, "latin-1")) for name, value in pairs]
            self.backlog.append(first)
            first = None
        self._open_block = first

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            try:
                data = self.socket.recv(2**18)
            except (ConnectionError, ssl.SSLError):
                raise _Gone from None
            if not data:
                raise _Gone
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


def request_fields(method: str, extra: Fields = ()) -> list[tuple[Any, Any]]:
    """The header fields of a gRPC call."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *extra,
    ]


def _connect(address: Address, tls: ssl.SSLContext | None, receive_buffer_bytes: int | None) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    if connection.family == socket.AF_INET:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if receive_buffer_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    connection.settimeout(TIMEOUT_S)
    try:
        connection.connect(address)
        return connection if tls is None else tls.wrap_socket(connection, server_hostname="localhost")
    except BaseException:
        connection.close()
        raise


def _split(data: bytes) -> tuple[list[int], list[bytes]]:
    flags, messages, at = [], [], 0
    while at < len(data):
        flag, length = struct.unpack_from(">BL", data, at)
        flags.append(flag)
        messages.append(data[at + 5 : at + 5 + length])
        at += 5 + length
    assert at == len(data), f"the answer ends within a message: {data[-80:]!r}"
    return flags, messages

"""What a connection sends, and when: answers under the client's windows, each stream in its turn."""

import asyncio
from collections import deque
from functools import lru_cache
from struct import Struct
from typing import Protocol

from services.frontends.grpc.call import MetadataPairs
from services.frontends.grpc.http2 import frames, messages
from services.frontends.grpc.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW,
    MAX_FRAME_BYTES,
    MAX_WINDOW,
)
from services.frontends.grpc.http2.limits import Limits
from services.frontends.grpc.http2.messages import PREFIX_BYTES
from services.frontends.grpc.http2.outbox import Outbox
from services.frontends.grpc.http2.responses import HEAD as OK_HEAD
from services.frontends.grpc.http2.responses import TRAILERS as OK_TRAILERS
from services.frontends.grpc.http2.responses import Responses
from services.frontends.grpc.http2.status import trailers
from services.telemetry.exchange import REQUEST_ID

_QUANTUM_BYTES = 2**16
"""What a stream may send before the next one has its turn."""
_WRITE_BYTES = 2**18
"""What is joined into one write."""
_MAX_ABANDONED = 4096

_ENDS = END_HEADERS | END_STREAM
_SID = Struct(">I")
_SHORT = 0x7F
"""Strings below this have a length of one byte."""


def _before_stream(kind: int, flags: int, size: int) -> bytes:
    """A frame's head up to its stream's number."""
    return frames.head(kind, flags, 0, size)[: -_SID.size]


_OPENING = _before_stream(HEADERS, END_HEADERS, len(OK_HEAD))


@lru_cache(maxsize=4096)
def _between(message_bytes: int, id_bytes: int) -> tuple[bytes, bytes, bytes, bytes]:
    """Of an answer with a message and a request id of such sizes: what stands between its head's stream and that of its data,
    between that and the message, between the message and the trailers' stream, and between that and the id.
    """
    return (
        OK_HEAD + _before_stream(DATA, 0, PREFIX_BYTES + message_bytes),
        messages.prefix(message_bytes),
        _before_stream(HEADERS, _ENDS, len(OK_TRAILERS) + 1 + id_bytes),
        OK_TRAILERS + bytes((id_bytes,)),
    )


class Outgoing(Protocol):
    """A stream as the sender sees it. `pending` holds what its windows do not let through, `tail` the trailers after that."""

    sid: int
    send_window: int
    pending: deque[memoryview] | None
    backlog: int
    tail: bytes | None
    queued: bool
    waits: bool
    remote_closed: bool

    def drained(self) -> None:
        """Nothing is pending any more, and the stream has not ended."""


class Sender:
    """The sending half of one connection.

    What is written in one turn of the event loop goes out in one write, when `outbox` says so, or, where somebody has set
    `held`, when they call `flush`; until then it is in `out`. `closes` says that the connection is to be closed once its
    streams have ended, which `flush` sees to. `streams` are the open ones: the sender takes a stream out where it ends it.
    """

    __slots__ = (
        *("_loop", "_out_bytes", "_outbox", "_ready", "_transport", "_written", "abandoned", "backlog", "closed"),
        *("closes", "frames_sent", "held", "initial_window", "limits", "max_frame_bytes", "out", "paused"),
        *("responses", "streams", "window"),
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        streams: "dict[int, Outgoing]",
        limits: Limits,
        outbox: Outbox,
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._outbox = outbox
        self.streams = streams
        self.limits = limits
        self.responses = Responses()
        self.window = INITIAL_WINDOW
        self.initial_window = INITIAL_WINDOW
        self.max_frame_bytes = MAX_FRAME_BYTES
        self.paused = False
        self.closed = False
        self.backlog = 0
        self.frames_sent = 0
        self.abandoned: dict[int, None] = {}
        self.out: list[bytes | memoryview] = []
        self._out_bytes = 0
        self._ready: deque[Outgoing] = deque()
        self.held = self.closes = False
        self._written = 0

    def answer(self, stream: Outgoing, data: bytes, request_id: bytes) -> None:
        """The one message of a unary call, with head and trailers; at once where it fits, else as windows allow."""
        size = len(data) + PREFIX_BYTES
        id_bytes = len(request_id)
        if (
            size > MAX_FRAME_BYTES
            or size > self.window
            or size > stream.send_window
            or not self.responses.filled
            or id_bytes >= _SHORT
        ):
            self.answer_in_parts(stream, data, request_id)
            return
        self.window -= size
        del self.streams[stream.sid]
        sid = _SID.pack(stream.sid)
        to_data, to_message, to_trailers, to_id = _between(len(data), id_bytes)
        self.out += (_OPENING, sid, to_data, sid, to_message, data, to_trailers, sid, to_id, request_id)
        if not self.held:
            self._schedule()

    def answer_in_parts(self, stream: Outgoing, data: bytes, request_id: bytes, encoding: str | None = None) -> None:
        """`answer` of any size, or compressed with `encoding`."""
        size = len(data) + PREFIX_BYTES
        if encoding is None and size <= min(self.window, stream.send_window, _QUANTUM_BYTES) and not self.paused:
            head, tail = self.responses.good(request_id)
        else:
            head, tail = self.responses.head(encoding), trailers(0, "", ((REQUEST_ID, request_id),))
        self.write(frames.frame(HEADERS, END_HEADERS, stream.sid, head))
        self.push(stream, data, compressed=encoding is not None)
        self.finish(stream, tail)

    def fail(
        self, stream: Outgoing, code: int, text: str, metadata: MetadataPairs = (), http_status: int = 200
    ) -> None:
        """End a stream that was sent nothing with an error."""
        self._end(stream, self.responses.only(http_status, trailers(code, text, metadata)))

    def start(self, stream: Outgoing, encoding: str | None = None) -> None:
        """The head of an answer of many messages."""
        self.write(frames.frame(HEADERS, END_HEADERS, stream.sid, self.responses.head(encoding)))

    def push(self, stream: Outgoing, data: bytes, *, compressed: bool = False) -> None:
        """One message of an answer."""
        pending = stream.pending
        if pending is None:
            pending = stream.pending = deque()
        pending.append(memoryview(messages.prefix(len(data), compressed=compressed)))
        if data:
            pending.append(memoryview(data))
        stream.backlog += len(data) + PREFIX_BYTES
        self.backlog += len(data) + PREFIX_BYTES
        self._enqueue(stream)
        self.pump()

    def finish(self, stream: Outgoing, block: bytes) -> None:
        """The trailers, after what is pending. Where something is, they must need no table."""
        if stream.pending:
            stream.tail = block
        else:
            self._end(stream, block)

    def reset(self, stream: Outgoing, code: int) -> None:
        """RST_STREAM: what is pending is dropped."""
        self.write(frames.rst_stream(stream.sid, code))
        self.drop(stream)
        self.streams.pop(stream.sid, None)
        self._abandon(stream.sid)

    def drop(self, stream: Outgoing) -> None:
        """Forget what is pending: the stream is gone."""
        self.backlog -= stream.backlog
        stream.backlog = 0
        stream.pending = stream.tail = None

    def refuse(self, sid: int, code: int) -> None:
        """RST_STREAM of a stream that was never opened here."""
        self.write(frames.rst_stream(sid, code))
        self._abandon(sid)

    def write(self, data: bytes) -> None:
        """A frame, or several, that no window holds back."""
        self.out.append(data)
        if not self.held:
            self._schedule()

    def flush(self) -> None:
        """Hand everything written so far to the socket."""
        self.held = False
        self._out_bytes = 0
        if self.out:
            out, self.out = self.out, []
            if not self.closed:
                data = b"".join(out)
                self._written += len(data)
                self._transport.write(data)
                if self.paused and self._transport.get_write_buffer_size() > self.limits.max_unread_bytes:
                    self._transport.pause_reading()
        if self.closes and not self.streams and not self.closed:
            self.closed = True
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection."""
        self._transport.abort()

    def close_when_done(self) -> None:
        """Close the connection once its streams have ended."""
        self.closes = True
        if not self.held:
            self._schedule()

    def taken(self) -> int:
        """How much of what was written the socket has taken."""
        return self._written - self._transport.get_write_buffer_size()

    def enlarge(self, increment: int) -> bool:
        """WINDOW_UPDATE of the connection. False where the window would be larger than it may."""
        self.window += increment
        if self.window > MAX_WINDOW:
            return False
        self.pump()
        return True

    def enlarge_stream(self, stream: Outgoing, increment: int) -> bool:
        """WINDOW_UPDATE of a stream. False where the window would be larger than it may."""
        stream.send_window += increment
        if stream.send_window > MAX_WINDOW:
            return False
        if stream.pending:
            self._enqueue(stream)
            self.pump()
        return True

    def change_initial_window(self, size: int) -> bool:
        """SETTINGS_INITIAL_WINDOW_SIZE, for open streams too (RFC 9113 6.9.2). False where one would be too large."""
        change = size - self.initial_window
        self.initial_window = size
        fit = [self.enlarge_stream(stream, change) for stream in list(self.streams.values())]
        return all(fit)

    def resume(self) -> None:
        """The socket takes more again."""
        self.paused = False
        self.pump()

    def pump(self) -> None:
        """Send of what is pending as much as windows and the socket take, each stream in its turn."""
        ready = self._ready
        while ready and self.window > 0 and not self.paused:
            stream = ready.popleft()
            stream.queued = False
            if not stream.pending or stream.send_window <= 0:
                continue
            self._send_some(stream)
            if stream.pending:
                self._enqueue(stream)
            elif stream.tail is not None:
                self._end(stream, stream.tail)
            else:
                stream.drained()
            if self._out_bytes >= _WRITE_BYTES:
                held = self.held
                self.flush()
                self.held = held

    def _send_some(self, stream: Outgoing) -> None:
        """DATA frames of one stream, until its turn, its window or the connection's ends."""
        pending = stream.pending
        room = allowed = min(self.window, stream.send_window, stream.backlog, _QUANTUM_BYTES)
        while room and pending:
            left = size = min(room, self.max_frame_bytes)
            self.write(frames.head(DATA, 0, stream.sid, size))
            while left:
                piece = pending[0]
                if len(piece) <= left:
                    pending.popleft()
                else:
                    pending[0], piece = piece[left:], piece[:left]
                left -= len(piece)
                self.out.append(piece)
            room -= size
            self.frames_sent += 1
        self.window -= allowed
        stream.send_window -= allowed
        stream.backlog -= allowed
        self.backlog -= allowed
        stream.waits = False
        self._out_bytes += allowed

    def _enqueue(self, stream: Outgoing) -> None:
        if not stream.queued and stream.send_window > 0:
            stream.queued = True
            self._ready.append(stream)

    def _end(self, stream: Outgoing, block: bytes) -> None:
        """Close our half. A client that still sends is told not to (RFC 9113 8.1)."""
        self.write(frames.frame(HEADERS, _ENDS, stream.sid, self.responses.take_resize() + block))
        self.streams.pop(stream.sid, None)
        if not stream.remote_closed:
            self.refuse(stream.sid, frames.NO_ERROR)

    def _abandon(self, sid: int) -> None:
        """Remember that what still comes on the stream is no fault of the client's; the oldest are forgotten."""
        abandoned = self.abandoned
        abandoned[sid] = None
        if len(abandoned) > _MAX_ABANDONED:
            del abandoned[next(iter(abandoned))]

    def _schedule(self) -> None:
        self.held = True
        self._outbox.add(self, self._loop)

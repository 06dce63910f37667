"""The streams of one connection: how requests open them, and how they end."""

import asyncio
from functools import partial
from struct import Struct
from typing import TypeAlias

from services import errors
from services.errors import CornetError, Internal
from services.frontends.grpc.call import StreamMethod, UnaryMethod, serve
from services.frontends.grpc.http2 import frames, messages
from services.frontends.grpc.http2.blocks import HeaderBlocks
from services.frontends.grpc.http2.context import Context
from services.frontends.grpc.http2.control import Control
from services.frontends.grpc.http2.flow import Sender
from services.frontends.grpc.http2.frames import (
    DATA,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    HEAD_BYTES,
    MAX_FRAME_BYTES,
    MAX_STREAM_ID,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
    ConnectionFault,
    StreamFault,
)
from services.frontends.grpc.http2.headers import Head, Refusal, TimedHead, check_trailers, refused
from services.frontends.grpc.http2.messages import ENCODINGS, PREFIX_BYTES
from services.frontends.grpc.http2.streaming import STOPPING, StreamingCall
from services.frontends.grpc.http2.unary import OFFLOADED_BYTES, NativeCall, Receiving
from services.frontends.status import to_cornet

Stream: TypeAlias = Receiving | NativeCall | StreamingCall

_KIND_AT = 3
_WHOLE = Struct(">IBIBI")
"""A DATA frame's head, and the prefix of the message in it."""


class Streams:
    """What a connection does between its frames and its calls. `streams` are those that are open, by their number.

    `last_sid` is the latest that a client opened, `goaway_sid` the last that it may. Windows are what the client may send.
    `read_at` is when what is handled at present had come from the socket, or back from a thread (`perf_counter` seconds).
    `arrivals` of its calls, all of the method that is `arriving`, are not counted yet. `whole_bytes` is the longest frame
    that can be a whole request. `sender`, `control` and the loop come with the connection.
    """

    __slots__ = (
        *("_blocks", "_loop", "_low_window", "_max_streams"),
        *(
            "arrivals",
            "arriving",
            "context",
            "control",
            "goaway_sid",
            "last_sid",
            "read_at",
            "recv_window",
            "sender",
            "stream_window",
            "streams",
            "whole_bytes",
        ),
    )

    _loop: asyncio.AbstractEventLoop
    control: Control
    sender: Sender

    def __init__(self, context: Context) -> None:
        limits = context.limits
        self.context = context
        self.streams: dict[int, Stream] = {}
        self.last_sid = 0
        self.goaway_sid = MAX_STREAM_ID
        self.read_at = 0.0
        self.arriving: UnaryMethod | None = None
        self.arrivals = 0
        self.stream_window = limits.stream_window_bytes
        self.recv_window = limits.connection_window_bytes
        self._low_window = self.recv_window // 2
        self._max_streams = limits.max_concurrent_streams
        self.whole_bytes = min(MAX_FRAME_BYTES, self.stream_window, context.max_message_bytes + PREFIX_BYTES)
        self._blocks = HeaderBlocks(context.heads, limits)

    def is_idle(self, sid: int) -> bool:
        """Whether the stream was never opened. One that came after GOAWAY was, for the client."""
        return not sid & 1 or self.last_sid < sid <= self.goaway_sid

    def replenish(self, sid: int, increment: int) -> None:
        """Let the client send `increment` bytes more."""
        self.sender.write(frames.window_update(sid, increment))

    def begin(self, stream: Receiving, data: bytes, *, compressed: bool) -> None:
        """A unary request is complete. Raises CornetError where its message does not decompress."""
        if not compressed:
            self.serve(stream, data)
            return
        encoding, limit = stream.head.encoding, self.context.max_message_bytes
        if len(data) <= OFFLOADED_BYTES:
            self.serve(stream, messages.decompressed(data, encoding, limit))
            return
        work = self._loop.run_in_executor(None, messages.decompressed, data, encoding, limit)
        work.add_done_callback(partial(self._decompressed, stream))

    def serve(self, stream: Receiving, data: bytes) -> None:
        """A request is complete: it becomes a call."""
        method = stream.head.method
        if not isinstance(method, UnaryMethod):
            raise TypeError("a stream that is Receiving has a unary method")
        if stream.deadline is not None and stream.deadline <= self.context.clock():
            stream.remote_closed = True
            stream.expire()
            return
        call = NativeCall(self, stream.sid, stream.send_window, stream.head, stream.deadline)
        self.streams[stream.sid] = call
        serve(method, data, call)

    def count_arrivals(self) -> None:
        """Count the calls that have arrived, at the end of a read, and before one of another method."""
        if self.arriving is not None and self.arrivals:
            self.context.metrics.arrived[self.arriving.protocol] += self.arrivals
            self.arrivals = 0

    def abort_streams(self, error: CornetError) -> None:
        """End every open call with an error."""
        for stream in list(self.streams.values()):
            stream.abort(error)

    def forget_streams(self) -> None:
        streams = list(self.streams.values())
        self.streams.clear()
        for stream in streams:
            stream.gone()

    def headers(self, sid: int, flags: int, block: bytes, data: bytes, i: int) -> int:
        """A whole header block: a head, or trailers. Returns where `data` goes on: at `i`, or behind the message there."""
        if sid <= self.last_sid:
            self._trailers(sid, flags, block)
            return i
        try:
            timed = self._blocks.kept.get(block) or self._blocks.head(block)
        except StreamFault:
            self._admit(sid)
            raise
        if not flags & END_STREAM and len(data) - i >= _WHOLE.size and data[i + _KIND_AT] == DATA:
            done = self._open_whole(sid, timed, data, i)
            if done:
                return done
        self._open(sid, flags, *timed)
        return i

    def _open_whole(self, sid: int, timed: TimedHead, data: bytes, i: int) -> int:
        """The usual case: a unary call whose message follows its head at once, whole, in one DATA frame.

        Returns where that frame ends; 0 where anything is otherwise, and nothing is done yet.
        """
        head, timeout_s = timed
        method = head.method
        if not isinstance(method, UnaryMethod):
            return 0
        word, flags, its_sid, is_compressed, length = _WHOLE.unpack_from(data, i)
        size: int = word >> 8
        stop = i + HEAD_BYTES + size
        announced = head.content_length
        if (
            is_compressed
            or flags != END_STREAM
            or its_sid != sid
            or length != size - PREFIX_BYTES
            or stop > len(data)
            or size > self.whole_bytes
            or (announced is not None and announced != size)
            or not sid & 1
            or sid > self.goaway_sid
            or len(self.streams) >= self._max_streams
        ):
            return 0
        self.last_sid = sid
        self.recv_window -= size
        if self.recv_window < self._low_window:
            self.replenish_connection()
        context = self.context
        deadline = None
        if timeout_s is not None:
            now = context.clock()
            deadline = now + timeout_s
            if deadline < context.deadlines.next:
                context.deadlines.watch(deadline)
        call = NativeCall(self, sid, self.sender.initial_window, head, deadline)
        self.streams[sid] = call
        if deadline is not None and deadline <= now:
            call.expire()
        else:
            serve(method, data[i + _WHOLE.size : stop], call)
        return stop

    def replenish_connection(self) -> None:
        window = self.context.limits.connection_window_bytes
        if self.recv_window < 0:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "the connection's window is exceeded")
        self.replenish(0, window - self.recv_window)
        self.recv_window = window

    def _admit(self, sid: int) -> bool:
        """Whether a new stream may be opened; its number is used either way."""
        if not sid & 1:
            raise ConnectionFault(PROTOCOL_ERROR, "a client's streams have odd numbers")
        if sid > self.goaway_sid:
            return False
        self.last_sid = sid
        if len(self.streams) >= self.context.limits.max_concurrent_streams:
            self.sender.refuse(sid, REFUSED_STREAM)
            return False
        return True

    def _open(self, sid: int, flags: int, head: Head, timeout_s: float | None) -> None:
        if not self._admit(sid):
            return
        deadline = None
        if timeout_s is not None:
            deadline = self.context.clock() + timeout_s
            if deadline < self.context.deadlines.next:
                self.context.deadlines.watch(deadline)
        method = head.method
        if not isinstance(method, StreamMethod):
            stream: Stream = Receiving(self, sid, head, deadline)
        elif self.context.stopping:
            head = refused(200, errors.UNAVAILABLE, STOPPING)
            stream = Receiving(self, sid, head, deadline)
        else:
            stream = StreamingCall(self, sid, head, method, deadline)
        self.streams[sid] = stream
        last = flags & END_STREAM != 0
        if head.refusal is not None:
            stream.remote_closed = last
            self._refuse(stream, head.refusal)
        elif last:
            stream.end()

    def _refuse(self, stream: Stream, refusal: Refusal) -> None:
        metadata = (("grpc-accept-encoding", ",".join(ENCODINGS)),) if refusal.accepted_encodings else ()
        self.sender.fail(stream, refusal.code, refusal.text, metadata, refusal.http_status)

    def _trailers(self, sid: int, flags: int, block: bytes) -> None:
        """HEADERS on a stream that was opened before."""
        fields, size = self._blocks.decode(block)
        if not block:
            self.control.count_empty()
        stream = self.streams.get(sid)
        if stream is None:
            if sid in self.sender.abandoned:
                return
            raise ConnectionFault(STREAM_CLOSED if sid & 1 else PROTOCOL_ERROR, "HEADERS on a closed stream")
        if stream.remote_closed:
            raise StreamFault(STREAM_CLOSED, "HEADERS after the end of the stream")
        if not flags & END_STREAM:
            raise StreamFault(PROTOCOL_ERROR, "HEADERS in the middle of a stream")
        if size > self.context.limits.max_header_list_bytes:
            stream.abort(errors.ResourceExhausted("Received trailers larger than max"))
            return
        check_trailers(fields)
        stream.end()

    def reset_stream(self, sid: int, fault: StreamFault) -> None:
        """A stream ends for a fault of the client's."""
        stream = self.streams.pop(sid, None)
        if stream is None:
            self.sender.refuse(sid, fault.code)
        else:
            stream.gone()
            self.sender.reset(stream, fault.code)
        self.control.count_reset()

    def _decompressed(self, stream: Receiving, work: "asyncio.Future[bytes]") -> None:
        """A thread has decompressed the message of a stream that may be gone by now."""
        if self.streams.get(stream.sid) is not stream:
            work.exception()
            return
        self.read_at = self.context.arrival_clock.now()
        error = work.exception()
        if error is None:
            self.serve(stream, work.result())
            self.count_arrivals()
        else:
            stream.refuse(to_cornet(error) if isinstance(error, Exception) else Internal("The server failed."))

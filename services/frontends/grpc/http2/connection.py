"""One connection of a client: bytes in, streams and their calls out."""

import asyncio
from functools import partial
from struct import Struct
from typing import TypeAlias, cast

from services import errors
from services.errors import CornetError, Internal
from services.frontends.grpc.call import StreamMethod, UnaryMethod, serve
from services.frontends.grpc.http2 import frames, messages
from services.frontends.grpc.http2.blocks import HeaderBlocks, unpadded
from services.frontends.grpc.http2.context import Context
from services.frontends.grpc.http2.control import Control
from services.frontends.grpc.http2.flow import Outgoing, Sender
from services.frontends.grpc.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    HEAD,
    HEAD_BYTES,
    HEADERS,
    INITIAL_WINDOW,
    INTERNAL_ERROR,
    MAX_FRAME_BYTES,
    MAX_STREAM_ID,
    PADDED,
    PREFACE,
    PRIORITISED,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    ConnectionFault,
    StreamFault,
)
from services.frontends.grpc.http2.headers import Head, Refusal, TimedHead, check_trailers
from services.frontends.grpc.http2.hpack import DEFAULT_TABLE_BYTES
from services.frontends.grpc.http2.lifetime import Lifetime
from services.frontends.grpc.http2.messages import ENCODINGS, PREFIX_BYTES
from services.frontends.grpc.http2.streaming import StreamingCall
from services.frontends.grpc.http2.unary import OFFLOADED_BYTES, NativeCall, Receiving
from services.frontends.status import to_cornet
from services.telemetry.log import get_logger

Stream: TypeAlias = Receiving | NativeCall | StreamingCall

_WHOLE = Struct(">HBBBIBI")
"""A DATA frame's head, and the prefix of the message in it."""
_UNUSUAL = PADDED | PRIORITISED | END_HEADERS
_MAX_DISCARDED_BYTES = 2**20

_log = get_logger("cornet.grpc")


class Connection(asyncio.Protocol):
    """HTTP/2's server side for gRPC.

    Frames are handled as they are cut from what arrives; whatever that makes the connection say is written once, when all
    of it is handled. `streams` are those that are open, by their number.
    """

    __slots__ = (
        *("_blocks", "_discarded", "_ended", "_loop", "_low_window", "_max_streams", "_rest", "_transport"),
        *("_whole_bytes", "context", "control", "draining", "goaway_sid", "heard", "last_sid", "lifetime", "moved"),
        *("recv_window", "sender", "started", "stream_window", "streams"),
    )

    def __init__(self, context: Context) -> None:
        self.context = context
        self.streams: dict[int, Stream] = {}
        self.last_sid = 0
        self.goaway_sid = MAX_STREAM_ID
        self.started = self.draining = self.heard = self.moved = self._ended = False
        self.stream_window = context.limits.stream_window_bytes
        self.recv_window = context.limits.connection_window_bytes
        self._low_window = self.recv_window // 2
        self._blocks = HeaderBlocks(context.heads, context.limits)
        self._max_streams = context.limits.max_concurrent_streams
        self._whole_bytes = min(MAX_FRAME_BYTES, self.stream_window, context.max_message_bytes + PREFIX_BYTES)
        self._rest = b""
        self._discarded = 0

    @property
    def is_partial(self) -> bool:
        """Whether a frame or a header block has begun to arrive."""
        return bool(self._rest) or self._blocks.open_stream != 0

    def now(self) -> float:
        """Seconds on the event loop's clock, which all times of the transport but the calls' deadlines are on."""
        return self._loop.time()

    def progress(self) -> int:
        """A number that grows as headers and data are exchanged."""
        return self.sender.frames_sent + self.last_sid

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        limits = self.context.limits
        self._transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()
        self.sender = Sender(self._transport, self._loop, cast("dict[int, Outgoing]", self.streams), limits)
        self.control = Control(self)
        self.lifetime = Lifetime(self)
        self.context.connections.add(self)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._ended = True
            self._transport.close()
            return
        offered = {
            frames.MAX_CONCURRENT_STREAMS: limits.max_concurrent_streams,
            frames.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
            frames.MAX_HEADER_LIST_SIZE: limits.max_header_list_bytes,
        }
        if limits.header_table_bytes != DEFAULT_TABLE_BYTES:
            offered[frames.HEADER_TABLE_SIZE] = limits.header_table_bytes
        self.sender.write(frames.settings(offered))
        if limits.connection_window_bytes > INITIAL_WINDOW:
            self.replenish(0, limits.connection_window_bytes - INITIAL_WINDOW)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name; however it ended, it ended
        self._ended = self.sender.closed = True
        self.context.disconnected(self)
        self._forget_streams()

    def pause_writing(self) -> None:
        self.sender.paused = True

    def resume_writing(self) -> None:
        self._transport.resume_reading()
        self.sender.resume()

    def data_received(self, data: bytes) -> None:
        self.heard = True
        if self._rest:
            data = self._rest + data
        self.sender.hold()
        try:
            done = self._read(data, 0) if self.started else self._start(data)
        except ConnectionFault as fault:
            self.end(fault)
        except Exception as error:  # noqa: BLE001 - logged; a fault of ours must not leave the client waiting
            _log.error("a gRPC connection failed", cause=error)
            self.end(ConnectionFault(INTERNAL_ERROR, "the server failed"))
        else:
            self._rest = data[done:]
            if done:
                self.moved = True
        self.sender.flush()

    def replenish(self, sid: int, increment: int) -> None:
        """Let the client send `increment` bytes more."""
        self.sender.write(frames.window_update(sid, increment))

    def is_idle(self, sid: int) -> bool:
        """Whether the stream was never opened. One that came after GOAWAY was, for the client."""
        return not sid & 1 or self.last_sid < sid <= self.goaway_sid

    def settings_acknowledged(self) -> None:
        """The client keeps to our settings from here on."""
        self._blocks.settings_acknowledged()

    def begin(self, stream: Receiving, data: bytes, *, compressed: bool) -> None:
        """A unary request is complete. Raises CornetError where its message does not decompress."""
        if not compressed:
            self._serve(stream, data)
            return
        encoding, limit = stream.head.encoding, self.context.max_message_bytes
        if len(data) <= OFFLOADED_BYTES:
            self._serve(stream, messages.decompressed(data, encoding, limit))
            return
        work = self._loop.run_in_executor(None, messages.decompressed, data, encoding, limit)
        work.add_done_callback(partial(self._decompressed, stream))

    def end(self, fault: ConnectionFault) -> None:
        """End the connection for a fault: GOAWAY says why, and is given time to arrive."""
        if self._ended:
            return
        self._ended, self.started = True, False
        self._rest = b""
        self._forget_streams()
        self.sender.write(frames.goaway(self.last_sid, fault.code, fault.reason))
        self.sender.flush()
        self.sender.closed = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
            self._loop.call_later(self.context.limits.linger_s, self._transport.abort)
        else:
            self._transport.close()

    def abort(self) -> None:
        """Drop the connection: its client takes nothing from it."""
        self._transport.abort()

    def abort_streams(self, error: CornetError) -> None:
        """End every open call with an error."""
        for stream in list(self.streams.values()):
            stream.abort(error)

    def _forget_streams(self) -> None:
        streams = list(self.streams.values())
        self.streams.clear()
        for stream in streams:
            stream.gone()

    def _start(self, data: bytes) -> int:
        """What comes before requests: the preface, and SETTINGS behind it. And what comes after the end."""
        if self._ended:
            self._discarded += len(data)
            if self._discarded > _MAX_DISCARDED_BYTES:
                self._transport.abort()
            return len(data)
        if not PREFACE.startswith(data[: len(PREFACE)]):
            raise ConnectionFault(PROTOCOL_ERROR, "expected the preface of HTTP/2")
        if len(data) < len(PREFACE) + HEAD_BYTES:
            return 0
        _, _, kind, flags, _ = HEAD.unpack_from(data, len(PREFACE))
        if kind != SETTINGS or flags & ACK:
            raise ConnectionFault(PROTOCOL_ERROR, "expected SETTINGS behind the preface")
        self.started = True
        return self._read(data, len(PREFACE))

    def _read(self, data: bytes, i: int) -> int:  # noqa: C901, PLR0912 - one pass, and no call per frame
        """Handle the whole frames in `data` from `i` on; where the rest begins. Raises ConnectionFault."""
        end = len(data)
        unpack = HEAD.unpack_from
        streams, blocks = self.streams, self._blocks
        while end - i >= HEAD_BYTES:
            high, low, kind, flags, sid = unpack(data, i)
            size = high << 8 | low
            if size > MAX_FRAME_BYTES:
                raise ConnectionFault(FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            start = i + HEAD_BYTES
            stop = start + size
            if stop > end:
                break
            i = stop
            sid &= MAX_STREAM_ID
            if blocks.open_stream and (kind != CONTINUATION or sid != blocks.open_stream):
                raise ConnectionFault(PROTOCOL_ERROR, "a header block is interrupted")
            try:
                if kind == DATA:
                    stream = streams.get(sid)
                    self.recv_window -= size
                    if stream is None or stream.remote_closed:
                        self._stray_data(sid, stream)
                    elif flags & PADDED or not size:
                        self._odd_data(stream, data[start:stop], flags)
                    else:
                        stream.data(data[start:stop], size, last=flags & END_STREAM != 0)
                    if self.recv_window < self._low_window:
                        self._replenish()
                elif kind == HEADERS:
                    block: bytes | None = data[start:stop]
                    if flags & _UNUSUAL != END_HEADERS:
                        block = blocks.begin(sid, flags, data[start:stop])
                    if block is not None:
                        i = self._headers(sid, flags, block, data, stop)
                elif kind == CONTINUATION:
                    whole = blocks.extend(flags, data[start:stop])
                    if whole is not None:
                        i = self._headers(sid, *whole, data, stop)
                else:
                    self.control.handle(kind, flags, sid, data[start:stop])
            except StreamFault as fault:
                self._reset(sid, fault)
        return i

    def _replenish(self) -> None:
        window = self.context.limits.connection_window_bytes
        if self.recv_window < 0:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "the connection's window is exceeded")
        self.replenish(0, window - self.recv_window)
        self.recv_window = window

    def _odd_data(self, stream: Stream, payload: bytes, flags: int) -> None:
        """DATA with padding, or without content. Padding counts in flow control (RFC 9113 6.1)."""
        content = unpadded(payload) if flags & PADDED else payload
        if not content and not flags & END_STREAM:
            self.control.count_empty()
        stream.data(content, len(payload), last=flags & END_STREAM != 0)

    def _stray_data(self, sid: int, stream: Stream | None) -> None:
        """DATA on a stream that takes none."""
        if stream is not None:
            raise StreamFault(STREAM_CLOSED, "DATA after the end of the stream")
        if self.is_idle(sid):
            raise ConnectionFault(PROTOCOL_ERROR, "DATA on a stream that is not open")
        if sid not in self.sender.abandoned and sid <= self.goaway_sid:
            raise ConnectionFault(STREAM_CLOSED, "DATA on a closed stream")

    def _headers(self, sid: int, flags: int, block: bytes, data: bytes, i: int) -> int:
        """A whole header block: a head, or trailers. Returns where `data` goes on: at `i`, or behind the message there."""
        if sid <= self.last_sid:
            self._trailers(sid, flags, block)
            return i
        try:
            timed = self._blocks.kept.get(block) or self._blocks.head(block)
        except StreamFault:
            self._admit(sid)
            raise
        if not flags & END_STREAM:
            done = self._open_whole(sid, timed, data, i)
            if done:
                return done
        self._open(sid, flags, *timed)
        return i

    def _open_whole(self, sid: int, timed: TimedHead, data: bytes, i: int) -> int:
        """The usual case: a unary call whose message follows its head at once, whole, in one frame.

        Returns where that frame ends; 0 where anything is otherwise, and nothing is done yet.
        """
        head, timeout_s = timed
        method = head.method
        if method.__class__ is not UnaryMethod or len(data) - i < _WHOLE.size or head.content_length is not None:
            return 0
        high, low, kind, flags, its_sid, is_compressed, length = _WHOLE.unpack_from(data, i)
        size = high << 8 | low
        stop: int = i + HEAD_BYTES + size
        if (
            (kind or is_compressed or flags != END_STREAM or its_sid != sid)
            or (length != size - PREFIX_BYTES or stop > len(data) or size > self._whole_bytes)
            or (not sid & 1 or sid > self.goaway_sid or len(self.streams) >= self._max_streams)
        ):
            return 0
        self.last_sid = sid
        self.recv_window -= size
        if self.recv_window < self._low_window:
            self._replenish()
        context = self.context
        deadline = None
        if timeout_s is not None:
            now = context.clock()
            deadline = now + timeout_s
            if deadline < context.deadlines.next:
                context.deadlines.watch(deadline)
        call = NativeCall(self, sid, self.sender.initial_window, head, method, deadline)
        self.streams[sid] = call
        if deadline is not None and deadline <= now:
            call.expire()
        else:
            serve(method, data[i + _WHOLE.size : stop], call)
        return stop

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
        if isinstance(method, StreamMethod):
            stream: Stream = StreamingCall(self, sid, head, method, deadline)
        else:
            stream = Receiving(self, sid, head, deadline)
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

    def _reset(self, sid: int, fault: StreamFault) -> None:
        """A stream ends for a fault of the client's."""
        stream = self.streams.pop(sid, None)
        if stream is None:
            self.sender.refuse(sid, fault.code)
        else:
            stream.gone()
            self.sender.reset(stream, fault.code)
        self.control.count_reset()

    def _serve(self, stream: Receiving, data: bytes) -> None:
        method = stream.head.method
        if not isinstance(method, UnaryMethod):
            raise TypeError("a stream that is Receiving has a unary method")
        if stream.deadline is not None and stream.deadline <= self.context.clock():
            stream.expire()
            return
        call = NativeCall(self, stream.sid, stream.send_window, stream.head, method, stream.deadline)
        self.streams[stream.sid] = call
        serve(method, data, call)

    def _decompressed(self, stream: Receiving, work: "asyncio.Future[bytes]") -> None:
        """A thread has decompressed the message of a stream that may be gone by now."""
        if self.streams.get(stream.sid) is not stream:
            work.exception()
            return
        error = work.exception()
        if error is None:
            self._serve(stream, work.result())
        else:
            stream.refuse(to_cornet(error) if isinstance(error, Exception) else Internal("The server failed."))

"""One connection of a client: bytes in, streams and their calls out."""

import asyncio
from typing import cast

from services.frontends.grpc.http2 import frames
from services.frontends.grpc.http2.blocks import unpadded
from services.frontends.grpc.http2.context import Context
from services.frontends.grpc.http2.control import Control
from services.frontends.grpc.http2.flow import Outgoing, Sender
from services.frontends.grpc.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
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
    SETTINGS,
    STREAM_CLOSED,
    ConnectionFault,
    StreamFault,
)
from services.frontends.grpc.http2.hpack import DEFAULT_TABLE_BYTES
from services.frontends.grpc.http2.lifetime import Lifetime
from services.frontends.grpc.http2.streams import Stream, Streams
from services.telemetry.log import get_logger

_UNUSUAL = PADDED | PRIORITISED | END_HEADERS
_MAX_DISCARDED_BYTES = 2**20

_log = get_logger("cornet.grpc")


class Connection(Streams, asyncio.Protocol):
    """HTTP/2's server side for gRPC, up to its streams.

    Frames are handled as they are cut from what arrives; whatever that makes the connection say is written once, when all
    of it is handled. `started` says that the preface is through and the connection has not ended, `heard` and `moved` that
    bytes and whole frames have come since they were last set back.
    """

    __slots__ = ("_discarded", "_ended", "_rest", "_transport", "draining", "heard", "lifetime", "moved", "started")

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.started = self.draining = self.heard = self.moved = self._ended = False
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
        streams = cast("dict[int, Outgoing]", self.streams)
        self.sender = Sender(self._transport, self._loop, streams, limits, self.context.outbox)
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
        self.forget_streams()

    def pause_writing(self) -> None:
        self.sender.paused = True

    def resume_writing(self) -> None:
        self._transport.resume_reading()
        self.sender.resume()

    def data_received(self, data: bytes) -> None:
        self.heard = True
        clock, sender = self.context.arrival_clock, self.sender
        self.read_at = clock.at or clock.now()
        if self._rest:
            data = self._rest + data
        sender.held = True
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
        if self.arrivals:
            self.count_arrivals()
        if sender.out or sender.closes:
            sender.flush()
        else:
            sender.held = False

    def settings_acknowledged(self) -> None:
        """The client keeps to our settings from here on."""
        self._blocks.settings_acknowledged()

    def end(self, fault: ConnectionFault) -> None:
        """End the connection for a fault: GOAWAY says why, and is given time to arrive."""
        if self._ended:
            return
        self._ended, self.started = True, False
        self._rest = b""
        self.forget_streams()
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
        word, flags, _ = HEAD.unpack_from(data, len(PREFACE))
        if word & 0xFF != SETTINGS or flags & ACK:
            raise ConnectionFault(PROTOCOL_ERROR, "expected SETTINGS behind the preface")
        self.started = True
        return self._read(data, len(PREFACE))

    def _read(self, data: bytes, i: int) -> int:  # noqa: C901, PLR0912 - one pass, and no call per frame
        """Handle the whole frames in `data` from `i` on; where the rest begins. Raises ConnectionFault."""
        end = len(data)
        unpack = HEAD.unpack_from
        streams, blocks = self.streams, self._blocks
        while end - i >= HEAD_BYTES:
            word, flags, sid = unpack(data, i)
            size, kind = word >> 8, word & 0xFF
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
                        stream.data(data, start, stop, size, flags & END_STREAM)
                    if self.recv_window < self._low_window:
                        self.replenish_connection()
                elif kind == HEADERS:
                    block: bytes | None = data[start:stop]
                    if flags & _UNUSUAL != END_HEADERS:
                        block = blocks.begin(sid, flags, data[start:stop])
                    if block is not None:
                        i = self.headers(sid, flags, block, data, stop)
                elif kind == CONTINUATION:
                    whole = blocks.extend(flags, data[start:stop])
                    if whole is not None:
                        i = self.headers(sid, *whole, data, stop)
                else:
                    self.control.handle(kind, flags, sid, data[start:stop])
            except StreamFault as fault:
                self.reset_stream(sid, fault)
        return i

    def _odd_data(self, stream: Stream, payload: bytes, flags: int) -> None:
        """DATA with padding, or without content. Padding counts in flow control (RFC 9113 6.1)."""
        content = unpadded(payload) if flags & PADDED else payload
        if not content and not flags & END_STREAM:
            self.control.count_empty()
        stream.data(content, 0, len(content), len(payload), flags & END_STREAM)

    def _stray_data(self, sid: int, stream: Stream | None) -> None:
        """DATA on a stream that takes none."""
        if stream is not None:
            raise StreamFault(STREAM_CLOSED, "DATA after the end of the stream")
        if self.is_idle(sid):
            raise ConnectionFault(PROTOCOL_ERROR, "DATA on a stream that is not open")
        if sid not in self.sender.abandoned and sid <= self.goaway_sid:
            raise ConnectionFault(STREAM_CLOSED, "DATA on a closed stream")

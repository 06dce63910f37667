"""The frames that carry no request: settings, windows, pings, resets; and how many of them a client may send."""

from math import inf
from typing import TYPE_CHECKING

from services.frontends.grpc.http2 import frames
from services.frontends.grpc.http2.frames import (
    ACK,
    ENABLE_PUSH,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    MAX_FRAME_BYTES,
    MAX_FRAME_BYTES_LIMIT,
    MAX_FRAME_SIZE,
    MAX_WINDOW,
    PING,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    RST_STREAM,
    SETTING,
    SETTINGS,
    SETTINGS_ACK,
    WINDOW_UPDATE,
    ConnectionFault,
    StreamFault,
)

if TYPE_CHECKING:
    from services.frontends.grpc.http2.connection import Connection

_PING_BYTES = 8
_GOAWAY_BYTES = 8
_PRIORITY_BYTES = 5
_UPDATES_PER_FRAME = 4


class Control:
    """Handles everything but DATA, HEADERS and CONTINUATION, for one connection."""

    __slots__ = ("_connection", "_counts", "_handlers", "_last_ping", "_progress", "_strikes", "_window_began")

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._counts: dict[str, int] = {}
        self._window_began = 0.0
        self._last_ping = -inf
        self._progress = 0
        self._strikes = 0
        self._handlers = {
            SETTINGS: self._settings,
            PING: self._ping,
            WINDOW_UPDATE: self._window_update,
            RST_STREAM: self._rst_stream,
            PRIORITY: self._priority,
            GOAWAY: self._goaway,
            PUSH_PROMISE: self._push_promise,
        }

    def handle(self, kind: int, flags: int, sid: int, payload: bytes) -> None:
        """One frame. Raises ConnectionFault and StreamFault."""
        handler = self._handlers.get(kind)
        if handler is None:
            self.count_empty()
        else:
            handler(flags, sid, payload)

    def count_empty(self) -> None:
        """Count a frame that cost work and carried nothing."""
        self._count("empty frames", self._connection.context.limits.max_empty_frames)

    def count_reset(self) -> None:
        """Count a stream that was reset before its answer, by the client or for its fault."""
        self._count("resets", self._connection.context.limits.max_resets)

    def _count(self, what: str, limit: int) -> None:
        """Raises ConnectionFault where there were more than `limit` within the window of time."""
        counts = self._counts
        count = counts[what] = counts.get(what, 0) + 1
        if count > limit:
            now = self._connection.now()
            if now - self._window_began < self._connection.context.limits.window_s:
                raise ConnectionFault(ENHANCE_YOUR_CALM, f"too many {what}")
            self._window_began = now
            counts.clear()

    def _settings(self, flags: int, sid: int, payload: bytes) -> None:
        if sid:
            raise ConnectionFault(PROTOCOL_ERROR, "SETTINGS on a stream")
        if len(payload) % SETTING.size or (flags & ACK and payload):
            raise ConnectionFault(FRAME_SIZE_ERROR, "SETTINGS of a wrong length")
        if flags & ACK:
            self._connection.settings_acknowledged()
            return
        self._count("SETTINGS", self._connection.context.limits.max_settings)
        for name, value in SETTING.iter_unpack(payload):
            self._set(name, value)
        self._connection.sender.write(SETTINGS_ACK)

    def _set(self, name: int, value: int) -> None:
        """One of the client's settings. Unknown ones are passed over (RFC 9113 6.5.2)."""
        sender = self._connection.sender
        if name == INITIAL_WINDOW_SIZE:
            if value > MAX_WINDOW or not sender.change_initial_window(value):
                raise ConnectionFault(FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE makes a window too large")
        elif name == MAX_FRAME_SIZE:
            if not MAX_FRAME_BYTES <= value <= MAX_FRAME_BYTES_LIMIT:
                raise ConnectionFault(PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE is out of its range")
            sender.max_frame_bytes = value
        elif name == HEADER_TABLE_SIZE:
            sender.responses.resize(value)
        elif name == ENABLE_PUSH and value > 1:
            raise ConnectionFault(PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH is neither 0 nor 1")

    def _ping(self, flags: int, sid: int, payload: bytes) -> None:
        connection = self._connection
        if sid:
            raise ConnectionFault(PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != _PING_BYTES:
            raise ConnectionFault(FRAME_SIZE_ERROR, "PING of a wrong length")
        if flags & ACK:
            connection.lifetime.acknowledged(payload)
            return
        limits = connection.context.limits
        self._count("PINGs", limits.max_pings)
        connection.sender.write(frames.frame(PING, ACK, 0, payload))
        progress = connection.progress()
        now = connection.now()
        if progress == self._progress and now - self._last_ping < limits.min_ping_interval_s:
            self._strikes += 1
            if self._strikes > limits.max_ping_strikes:
                raise ConnectionFault(ENHANCE_YOUR_CALM, "too_many_pings")
        elif progress != self._progress:
            self._strikes = 0
        self._progress = progress
        self._last_ping = now

    def _window_update(self, _: int, sid: int, payload: bytes) -> None:
        connection = self._connection
        if len(payload) != 4:
            raise ConnectionFault(FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong length")
        increment = int.from_bytes(payload, "big") & MAX_WINDOW
        allowed = connection.context.limits.max_window_updates
        self._count("WINDOW_UPDATEs", allowed + _UPDATES_PER_FRAME * connection.progress())
        if sid == 0:
            if increment == 0:
                raise ConnectionFault(PROTOCOL_ERROR, "WINDOW_UPDATE of zero")
            if not connection.sender.enlarge(increment):
                raise ConnectionFault(FLOW_CONTROL_ERROR, "the connection's window is too large")
            return
        if connection.is_idle(sid):
            raise ConnectionFault(PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
        stream = connection.streams.get(sid)
        if stream is None:
            return
        if increment == 0:
            raise StreamFault(PROTOCOL_ERROR, "WINDOW_UPDATE of zero")
        if not connection.sender.enlarge_stream(stream, increment):
            raise StreamFault(FLOW_CONTROL_ERROR, "the stream's window is too large")

    def _rst_stream(self, _: int, sid: int, payload: bytes) -> None:
        connection = self._connection
        if len(payload) != 4:
            raise ConnectionFault(FRAME_SIZE_ERROR, "RST_STREAM of a wrong length")
        if connection.is_idle(sid):
            raise ConnectionFault(PROTOCOL_ERROR, "RST_STREAM on an idle stream")
        stream = connection.streams.pop(sid, None)
        if stream is not None:
            stream.gone()
            self.count_reset()

    def _priority(self, _: int, sid: int, payload: bytes) -> None:
        """RFC 9113 5.3.2 has it ignored, but for its form."""
        if sid == 0:
            raise ConnectionFault(PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(payload) != _PRIORITY_BYTES:
            raise StreamFault(FRAME_SIZE_ERROR, "PRIORITY of a wrong length")
        self.count_empty()

    def _goaway(self, _: int, sid: int, payload: bytes) -> None:
        if sid:
            raise ConnectionFault(PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < _GOAWAY_BYTES:
            raise ConnectionFault(FRAME_SIZE_ERROR, "GOAWAY of a wrong length")
        self._connection.lifetime.peer_leaves()

    def _push_promise(self, _flags: int, _sid: int, _payload: bytes) -> None:
        raise ConnectionFault(PROTOCOL_ERROR, "PUSH_PROMISE from a client")

"""How a connection ends: silence, idleness, age, a client that takes nothing, drain; and what it is given before."""

import random
from math import inf
from typing import TYPE_CHECKING

from services.errors import ShuttingDown
from services.frontends.grpc.http2 import frames
from services.frontends.grpc.http2.frames import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    MAX_STREAM_ID,
    NO_ERROR,
    PING,
    ConnectionFault,
)

if TYPE_CHECKING:
    from services.frontends.grpc.http2.connection import Connection

_KEEPALIVE = b"alive?\0\0"
_DRAIN = b"drain\0\0\0"
_AGE_SPREAD = 0.1


class Lifetime:
    """The clocks of one connection. `look` is called a few times a second or less, and all times are as coarse as that."""

    __slots__ = (
        *("_age_at", "_began", "_connection", "_drained_at", "_grace_at", "_handshake_at", "_heard_at", "_idle_since"),
        *("_partial_since", "_paused_since", "_pinged_at", "_stalled", "_taken"),
    )

    def __init__(self, connection: "Connection") -> None:
        limits = connection.context.limits
        now = connection.now()
        self._connection = connection
        self._taken = 0
        self._handshake_at = now + limits.handshake_timeout_s
        self._heard_at = self._idle_since = self._partial_since = self._paused_since = now
        self._pinged_at = self._drained_at = self._grace_at = inf
        spread = 1 + random.uniform(-_AGE_SPREAD, _AGE_SPREAD)  # noqa: S311 - spreads load; nothing secret
        self._age_at = inf if limits.max_age_s is None else now + limits.max_age_s * spread
        self._stalled: dict[int, float] = {}

    def look(self, now: float) -> None:
        """Do what is due. Raises ConnectionFault."""
        connection = self._connection
        limits = connection.context.limits
        if not connection.started:
            if now >= self._handshake_at:
                raise ConnectionFault(frames.SETTINGS_TIMEOUT, "no HTTP/2 preface and SETTINGS in time")
            return
        self._check_silence(now)
        self._check_partial(now)
        self._check_stalls(now)
        if connection.streams:
            self._idle_since = now
        elif limits.max_idle_s is not None and now - self._idle_since >= limits.max_idle_s:
            self.drain(now)
        if now >= self._age_at:
            self._age_at = inf
            self.drain(now)
            if limits.max_age_grace_s is not None:
                self._grace_at = now + limits.max_age_grace_s
        if now >= self._grace_at:
            self._grace_at = inf
            connection.abort_streams(ShuttingDown("The connection has reached its age."))
        if now >= self._drained_at:
            self.drained()

    def acknowledged(self, payload: bytes) -> None:
        """The client answered a ping of ours."""
        if payload == _DRAIN:
            self.drained()
        elif payload == _KEEPALIVE:
            self._pinged_at = inf

    def drain(self, now: float) -> None:
        """Take no new streams, in two steps (RFC 9113 6.8): those on their way when the client hears of it are served."""
        connection = self._connection
        if connection.draining:
            return
        connection.draining = True
        if not connection.started:
            connection.end(ConnectionFault(NO_ERROR, "the server is shutting down"))
            return
        self._drained_at = now + connection.context.limits.linger_s
        connection.sender.write(frames.goaway(MAX_STREAM_ID, NO_ERROR))
        connection.sender.write(frames.frame(PING, 0, 0, _DRAIN))

    def drained(self) -> None:
        """The second step: the client knows, or has had its time."""
        connection = self._connection
        if self._drained_at < inf:
            self._drained_at = inf
            connection.goaway_sid = connection.last_sid
            connection.sender.write(frames.goaway(connection.last_sid, NO_ERROR))
            connection.sender.close_when_done()

    def peer_leaves(self) -> None:
        """GOAWAY from the client: it opens no more streams, and wants the answers of those that are open."""
        connection = self._connection
        connection.draining = True
        self._drained_at = inf
        connection.goaway_sid = connection.last_sid
        connection.sender.close_when_done()

    def _check_silence(self, now: float) -> None:
        limits = self._connection.context.limits
        connection = self._connection
        if connection.heard or connection.sender.paused:  # nothing may be read while the client reads nothing
            connection.heard = False
            self._heard_at = now
            self._pinged_at = inf
        elif now - self._pinged_at >= limits.keepalive_timeout_s:
            raise ConnectionFault(NO_ERROR, "keepalive timeout")
        elif limits.keepalive_s is not None and self._pinged_at == inf and now - self._heard_at >= limits.keepalive_s:
            self._pinged_at = now
            connection.sender.write(frames.frame(PING, 0, 0, _KEEPALIVE))

    def _check_partial(self, now: float) -> None:
        """A frame or a header block that has begun must end."""
        connection = self._connection
        if connection.moved or not connection.is_partial:
            connection.moved = False
            self._partial_since = now
        elif now - self._partial_since >= connection.context.limits.header_timeout_s:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "a frame took too long to arrive")

    def _check_stalls(self, now: float) -> None:
        """An answer that waits for its windows must get on, and the socket must take what is written."""
        connection, sender = self._connection, self._connection.sender
        limit_s = connection.context.limits.stall_timeout_s
        taken, self._taken = self._taken, sender.taken()
        if not sender.paused or self._taken > taken:
            self._paused_since = now
        elif now - self._paused_since >= limit_s:
            connection.abort()
            return
        if not sender.backlog:
            self._stalled.clear()
            return
        if sender.paused:
            return
        stalled = {}
        for stream in [stream for stream in connection.streams.values() if stream.pending]:
            since = self._stalled.get(stream.sid, now) if stream.waits else now
            stream.waits = True
            if now - since >= limit_s:
                stream.gone()
                sender.reset(stream, CANCEL)
                connection.control.count_reset()
            else:
                stalled[stream.sid] = since
        self._stalled = stalled

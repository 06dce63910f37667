"""What all connections of one server share."""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from services.frontends.grpc.call import Method
from services.frontends.grpc.http2.deadlines import Deadlines
from services.frontends.grpc.http2.headers import HeadReader
from services.frontends.grpc.http2.limits import Limits
from services.frontends.grpc.http2.outbox import Outbox
from services.telemetry.arrivals import ArrivalClock
from services.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from services.frontends.grpc.http2.connection import Connection


class Context:
    """The method table and the options of a server, and what its connections hold together.

    `compression` is the encoding of answers to clients that accept it, "" for none.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        metrics: Metrics,
        clock: Callable[[], float],
        limits: Limits,
        *,
        max_message_bytes: int,
        compression: str,
    ) -> None:
        self.heads = HeadReader(methods)
        self.metrics = metrics
        self.clock = clock
        self.limits = limits
        self.max_message_bytes = max_message_bytes
        self.compression = compression
        self.connections: set[Connection] = set()
        self.deadlines = Deadlines(clock, self.connections)
        self.outbox = Outbox()
        self.arrival_clock = ArrivalClock()
        self.stopping = False
        self.emptied: asyncio.Event | None = None
        self._receiving_bytes = 0

    def receive(self, size: int) -> bool:
        """Count bytes of unfinished requests, negative ones when they are let go. False where they are too many."""
        self._receiving_bytes += size
        return self._receiving_bytes <= self.limits.max_receiving_bytes

    def disconnected(self, connection: "Connection") -> None:
        """A connection is closed; the last one sets `emptied`, where somebody waits for that."""
        self.connections.discard(connection)
        if not self.connections and self.emptied is not None:
            self.emptied.set()

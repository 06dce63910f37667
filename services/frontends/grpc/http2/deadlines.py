"""One timer for the deadlines of all calls of a server."""

import asyncio
from collections.abc import Callable, Collection
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.frontends.grpc.http2.connection import Connection

RESOLUTION_S = 0.01
"""How close two looks at the open calls may be, where they are few."""
_REST = 20
"""How many times as long as a look the pause after it is at least: a look is as long as there are open calls."""


class Deadlines:
    """Ends calls whose deadline has passed.

    Open calls are not registered: a call costs one comparison with the time of the next look, and the look goes over
    all open calls of `connections`. Most calls end long before, and a look finds the time of the next.
    """

    def __init__(self, clock: Callable[[], float], connections: "Collection[Connection]") -> None:
        self._clock = clock
        self._connections = connections
        self._timer: asyncio.TimerHandle | None = None
        self.next = inf
        self._earliest = -inf

    def watch(self, deadline: float) -> None:
        """A call with this deadline has begun. Calls `deadline >= next` need not be told of."""
        at = max(deadline, self._earliest)
        if at < self.next:
            self.next = at
            self._arm()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_s = max(self.next - self._clock(), 0.0)
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._look)

    def _look(self) -> None:
        now, self._timer = self._clock(), None
        began = perf_counter()
        expired, upcoming = [], inf
        for connection in self._connections:
            for stream in connection.streams.values():
                deadline = stream.deadline
                if deadline is not None:
                    if deadline <= now:
                        expired.append(stream)
                    elif deadline < upcoming:
                        upcoming = deadline
        self.next = inf
        self._earliest = now + max(RESOLUTION_S, _REST * (perf_counter() - began))
        if upcoming < inf:
            self.watch(upcoming)
        for stream in expired:
            stream.expire()

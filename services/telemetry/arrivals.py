"""When requests arrived: one time for all that one wait of the event loop found."""

import asyncio
from time import perf_counter


class ArrivalClock:
    """The times at which connections were found to have something to read, one per turn of the event loop.

    What the loop reads in one turn, from whatever connections, had arrived by the turn's beginning. That it is read one
    connection after the other is waiting, and counts as such; and requests that arrived together are cheap to count.
    `at` is what `now` has said in this turn, 0 where it was not asked yet.
    """

    __slots__ = ("at",)

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> float:
        """`perf_counter` seconds of the first call in this turn of the loop that runs on this thread."""
        if not self.at:
            self.at = perf_counter()
            asyncio.get_running_loop().call_soon(self._turn_over)
        return self.at

    def _turn_over(self) -> None:
        self.at = 0.0

"""One timer for all calls: it ends those whose time is over, no other, and costs nothing where none has a deadline."""

import asyncio
from dataclasses import dataclass
from math import inf

from services.frontends.grpc.http2.deadlines import RESOLUTION_S, Deadlines


@dataclass(eq=False)
class Call:
    deadline: float | None
    ended: int = 0

    def expire(self) -> None:
        self.ended += 1
        self.deadline = None


class Open:
    """A connection's open streams."""

    def __init__(self, *calls: Call) -> None:
        self.streams = dict(enumerate(calls))


def test_calls_end_when_their_time_is_over_and_not_before() -> None:
    async def scenario() -> None:
        now = [100.0]
        calls = [Call(100.005), Call(100.01), Call(500.0), Call(None)]
        deadlines = Deadlines(lambda: now[0], [Open(*calls[:2]), Open(*calls[2:])])  # type: ignore[list-item]
        deadlines.watch(100.005)
        now[0] = 100.02
        deadlines._look()
        assert [call.ended for call in calls] == [1, 1, 0, 0]
        assert deadlines.next == 500.0
        now[0] = 501.0
        deadlines._look()
        assert [call.ended for call in calls] == [1, 1, 1, 0]
        assert deadlines.next == inf
        deadlines.close()

    asyncio.run(scenario())


def test_an_earlier_deadline_brings_the_next_look_forward() -> None:
    async def scenario() -> None:
        deadlines = Deadlines(lambda: 0.0, [])
        deadlines.watch(60.0)
        later = deadlines._timer
        deadlines.watch(70.0)
        assert deadlines._timer is later
        deadlines.watch(50.0)
        assert deadlines.next == 50.0
        assert later is not None
        assert later.cancelled()
        deadlines.close()

    asyncio.run(scenario())


def test_looks_keep_a_distance_whatever_deadlines_come() -> None:
    async def scenario() -> None:
        deadlines = Deadlines(lambda: 100.0, [])
        deadlines.watch(100.0)
        deadlines._look()
        deadlines.watch(100.0)
        assert deadlines.next >= 100.0 + RESOLUTION_S
        deadlines.close()

    asyncio.run(scenario())

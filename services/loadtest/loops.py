"""Closed and open loops: who decides when the next request is sent.

In a closed loop each of `concurrency` callers sends its next request when the last is answered: the server sets the pace.
In an open loop requests are due at given times, whatever the server does, and latency counts from the due time: a server
that stalls is charged for every request that should have been sent meanwhile ("coordinated omission" is what leaving them
out is called).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import cycle
from time import perf_counter

from services.loadtest.measurement import Recorder
from services.loadtest.requests import Answer, Request

Send = Callable[[Request], Awaitable[Answer]]
Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


async def closed_loop(
    send: Send,
    requests: Sequence[Request],
    *,
    concurrency: int,
    seconds: float,
    max_requests: int,
    clock: Clock = perf_counter,
) -> Recorder:
    """Keep `concurrency` requests in flight for `seconds`, or until `max_requests` were sent; waits for the last answers."""
    recorder = Recorder(clock())
    end = recorder.started_s + seconds
    source, left = cycle(requests), max_requests

    async def caller() -> None:
        nonlocal left
        while left > 0 and (begun := clock()) < end:
            left -= 1
            answer = await send(next(source))
            recorder.record(begun, clock(), answer)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(caller())
    return recorder


async def open_loop(
    send: Send,
    requests: Sequence[Request],
    schedule: Iterable[float],
    *,
    seconds: float,
    max_requests: int,
    max_in_flight: int,
    clock: Clock = perf_counter,
    sleep: Sleep = asyncio.sleep,
) -> Recorder:
    """Send at the times of `schedule` for `seconds`, or until `max_requests` were sent; waits for the last answers.

    Where `max_in_flight` are unanswered the next one waits; its latency counts from its due time all the same.
    """
    recorder = Recorder(clock())
    source, free = cycle(requests), asyncio.Semaphore(max_in_flight)

    async def one(due: float, request: Request) -> None:
        try:
            answer = await send(request)
            recorder.record(due, clock(), answer)
        finally:
            free.release()

    async with asyncio.TaskGroup() as group:
        for sent, offset in enumerate(schedule):
            if offset >= seconds or sent >= max_requests:
                break
            due = recorder.started_s + offset
            await sleep(max(0.0, due - clock()))  # even when late: answers must be read
            await free.acquire()
            recorder.lateness.record(max(0.0, clock() - due))
            group.create_task(one(min(due, clock()), next(source)))
    return recorder

"""Closed and open loops: who decides when the next request is sent.

In a closed loop each of `concurrency` callers sends its next request when the last is answered: the server sets the pace.
In an open loop requests are due at given times, whatever the server does, and latency counts from the due time: a server
that stalls is charged for every request that should have been sent meanwhile ("coordinated omission" is what leaving them
out is called).

Either ends early once `stop` is set: what is then unanswered is cut, and counted as unfinished.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from itertools import cycle
from time import perf_counter

from services.loadtest.measurement import Recorder
from services.loadtest.requests import CONNECTION, Answer, Request

Send = Callable[[Request], Awaitable[Answer]]
Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]

_PAUSE_WITHOUT_CONNECTION_S = 0.1
"""Of a caller whose connection was refused or broke: a server that is gone does that thousands of times a second."""


async def closed_loop(
    send: Send,
    requests: Sequence[Request],
    *,
    concurrency: int,
    seconds: float,
    max_requests: int,
    stop: asyncio.Event | None = None,
    clock: Clock = perf_counter,
    sleep: Sleep = asyncio.sleep,
) -> Recorder:
    """Keep `concurrency` requests in flight for `seconds`, or until `max_requests` were sent; waits for the last answers.

    A caller whose connection is lost pauses a moment before it tries again.
    """
    recorder = Recorder(clock())
    end = recorder.started_s + seconds
    source, left = cycle(requests), max_requests

    async def caller() -> None:
        nonlocal left
        while left > 0 and (begun := clock()) < end:
            left -= 1
            answer = await _answer(send, next(source), recorder)
            recorder.record(begun, clock(), answer)
            if answer.code == CONNECTION:
                await sleep(_PAUSE_WITHOUT_CONNECTION_S)

    async def callers() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(caller())

    await _until(stop, callers())
    recorder.close(clock())
    return recorder


async def open_loop(
    send: Send,
    requests: Sequence[Request],
    schedule: Iterable[float],
    *,
    seconds: float,
    max_requests: int,
    max_in_flight: int,
    stop: asyncio.Event | None = None,
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
            answer = await _answer(send, request, recorder)
            recorder.record(due, clock(), answer)
        finally:
            free.release()

    async def arrivals() -> None:
        async with asyncio.TaskGroup() as group:
            for sent, offset in enumerate(schedule):
                if sent >= max_requests:
                    return
                due = recorder.started_s + min(offset, seconds)
                await sleep(max(0.0, due - clock()))  # even when late: answers must be read
                if offset >= seconds:
                    return
                await free.acquire()
                recorder.lateness.record(max(0.0, clock() - due))
                group.create_task(one(min(due, clock()), next(source)))

    await _until(stop, arrivals())
    recorder.close(clock())
    return recorder


async def _answer(send: Send, request: Request, recorder: Recorder) -> Answer:
    try:
        return await send(request)
    except asyncio.CancelledError:
        recorder.unfinished += 1
        raise


async def _until(stop: asyncio.Event | None, work: Coroutine[None, None, None]) -> None:
    """Await `work`, and cancel it once `stop` is set."""
    if stop is None:
        await work
        return
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        if not working.done():
            working.cancel()
    with suppress(asyncio.CancelledError):
        await working

import asyncio

import pytest

from services.loadtest.loops import closed_loop, open_loop
from services.loadtest.requests import CONNECTION, OK, Answer, Request
from services.loadtest.schedules import constant

REQUESTS = [Request("/a"), Request("/b")]


class Time:
    """A clock that moves only where a test says so: by sleeping, or by a server that takes its time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


class Server:
    """Answers after `seconds`; `failing` every n-th request with 503. Knows the most requests it held at once."""

    def __init__(self, time: Time, seconds: float, failing: int = 0) -> None:
        self.time = time
        self.seconds = seconds
        self.failing = failing
        self.requests: list[Request] = []
        self.held = self.most_held = 0

    async def __call__(self, request: Request) -> Answer:
        self.requests.append(request)
        self.held += 1
        self.most_held = max(self.held, self.most_held)
        await asyncio.sleep(0)
        self.time.now += self.seconds
        self.held -= 1
        failed = self.failing and len(self.requests) % self.failing == 0
        return Answer("503", b"busy") if failed else Answer(OK)


def test_a_closed_loop_keeps_its_callers_busy_for_the_time_given() -> None:
    time = Time()
    server = Server(time, 0.01)

    recorder = asyncio.run(closed_loop(server, REQUESTS, concurrency=4, seconds=1.0, max_requests=10_000, clock=time))

    assert server.most_held == 4
    assert recorder.requests == pytest.approx(100, abs=4)
    assert recorder.latency.percentile_s(50) == pytest.approx(0.04, rel=0.02)
    assert server.requests[:4] == [REQUESTS[0], REQUESTS[1], REQUESTS[0], REQUESTS[1]]


def test_a_closed_loop_sends_no_more_than_it_may() -> None:
    time = Time()

    recorder = asyncio.run(
        closed_loop(Server(time, 0.0), REQUESTS, concurrency=8, seconds=1.0, max_requests=21, clock=time)
    )

    assert recorder.requests == 21


def open_recorder(time: Time, server: Server, **options):
    return asyncio.run(
        open_loop(
            server,
            REQUESTS,
            constant(10.0),
            seconds=1.0,
            **{"max_requests": 1000, "max_in_flight": 1, **options},
            clock=time,
            sleep=time.sleep,
        )
    )


def test_an_open_loop_sends_at_the_times_of_its_schedule() -> None:
    time = Time()

    recorder = open_recorder(time, Server(time, 0.0), max_in_flight=8)

    assert recorder.requests == 10
    assert recorder.lateness.greatest_s == pytest.approx(0.0, abs=1e-6)


def test_a_stalling_server_is_charged_from_the_due_time_of_each_request() -> None:
    """One request at a time and half a second each: the last of ten is due at 0.9 s and answered after 5 s."""
    time = Time()

    recorder = open_recorder(time, Server(time, 0.5))

    assert recorder.requests == 10
    assert recorder.latency.greatest_s == pytest.approx(5.0 - 0.9, abs=0.11)
    assert recorder.latency.percentile_s(50) == pytest.approx(2.1, abs=0.2)
    assert recorder.lateness.greatest_s == pytest.approx(4.5 - 0.9, abs=0.11)


def test_no_more_requests_are_unanswered_than_allowed() -> None:
    time = Time()
    server = Server(time, 0.5)

    open_recorder(time, server, max_in_flight=3)

    assert server.most_held <= 3


def test_errors_are_counted_by_code_and_kept_out_of_the_latency() -> None:
    time = Time()

    recorder = open_recorder(time, Server(time, 0.0, failing=5), max_in_flight=8)

    assert dict(recorder.errors) == {"503": 2}
    assert recorder.examples == {"503": "busy"}
    assert recorder.latency.count == 8
    assert sum(entry["ok"] for entry in recorder.timeline()) == 8


def test_an_open_loop_lasts_its_time_though_nothing_more_is_due() -> None:
    time = Time()

    recorder = open_recorder(time, Server(time, 0.0), max_in_flight=8, max_requests=1000)

    assert recorder.seconds == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["closed", "open"])
def test_a_step_that_is_stopped_cuts_what_has_no_answer_and_calls_it_no_error(kind: str) -> None:
    async def run():
        stop, sent = asyncio.Event(), []

        async def send(request: Request) -> Answer:
            sent.append(request)
            if len(sent) <= 2:
                return Answer(OK)
            if len(sent) == 5:
                stop.set()
            await asyncio.Event().wait()
            raise AssertionError

        bounds = {"seconds": 60.0, "max_requests": 1000, "stop": stop}
        if kind == "closed":
            return await closed_loop(send, REQUESTS, concurrency=3, **bounds)
        return await open_loop(send, REQUESTS, constant(1000.0), max_in_flight=3, **bounds)

    recorder = asyncio.run(asyncio.wait_for(run(), 10))

    assert (recorder.requests, recorder.unfinished, dict(recorder.errors)) == (2, 3, {})
    assert recorder.seconds < 10


def test_a_caller_without_a_connection_pauses_before_it_tries_again() -> None:
    time = Time()

    async def refused(_: Request) -> Answer:
        return Answer(CONNECTION, b"refused")

    recorder = asyncio.run(
        closed_loop(refused, REQUESTS, concurrency=1, seconds=1.0, max_requests=10_000, clock=time, sleep=time.sleep)
    )

    assert recorder.errors == {CONNECTION: recorder.requests}
    assert 9 <= recorder.requests <= 11

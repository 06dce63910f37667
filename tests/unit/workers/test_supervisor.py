"""The supervisor, with workers that are real processes and serve nothing: each of their lives does what it is told to."""

import asyncio
import json
import logging
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services.errors import FailedPrecondition, Unavailable
from services.workers import child
from services.workers.backoff import Backoff
from services.workers.plan import Plan
from services.workers.supervisor import Supervisor

_STUB = """
import asyncio, json, pathlib, signal, socket, sys
from services.workers import frames

async def main():
    channel = socket.socket(fileno=int(sys.argv[1]))
    boot = frames.read_blocking(channel)
    folder, lives = pathlib.Path(boot.head["settings"]["folder"]), boot.head["settings"]["lives"]
    lives = lives[boot.head["worker"]]
    told = lives[min(len(boot.body), len(lives) - 1)]
    reader, writer = await asyncio.open_unix_connection(sock=channel)

    async def say(kind, body=b"", **head):
        writer.write(frames.encode(kind, body, **head))
        await writer.drain()

    async def answer():
        while (frame := await frames.read(reader)) is not None:
            await say("snapshot", boot.body)

    async def scrape():
        number = 0
        while True:
            number += 1
            await say("collect", b"own", id=number)
            parts = []
            while (frame := await frames.read(reader)).kind == "part":
                parts.append([frame.head["worker"], frame.head["presence"], frame.body.decode()])
            with (folder / "scrapes").open("a") as file:
                file.write(json.dumps({"parts": parts, "restarts": frame.head["restarts"]}) + "\\n")
            await asyncio.sleep(0.01)

    if told == "refuse":
        await say("failed", reason="Expected another machine.")
        sys.exit(3)
    if told == "vanish":
        sys.exit(9)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, (lambda: None) if told == "hang" else sys.exit)
    await say("ready", grpc="g", http="h", models="m")
    if told == "die":
        while not (folder / "die").exists():
            await asyncio.sleep(0.01)
        await say("snapshot", boot.body + b"1")
        sys.exit(7)
    if told == "scrape":
        await scrape()
    if told == "silent":
        await asyncio.Event().wait()
    await answer()

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    def command(_module: str, _label: str, *descriptors: int) -> tuple[str, ...]:
        return (sys.executable, "-c", _STUB, *map(str, descriptors))

    monkeypatch.setattr(child, "command", command)


@dataclass
class Run:
    """One supervisor over stubs: `lives` has, for each worker, what its lives do; the last of them again and again."""

    folder: Path

    def supervise(
        self, lives: Sequence[Sequence[str]], then: Callable[[Supervisor], Any], *, stop_within_s: float = 20.0
    ) -> int:
        """Run it; `then(supervisor)` is awaited once all workers are ready, and the supervisor told to stop after it."""
        settings = {"folder": str(self.folder), "lives": [list(one) for one in lives]}
        plan = Plan(len(lives), "127.0.0.1", 0, 0, stop_within_s, "info", "json", settings)

        async def main() -> int:
            supervisor = Supervisor(plan, backoff=lambda: Backoff(first_s=0.01, most_s=0.02))

            async def act() -> None:
                await supervisor._all_ready.wait()
                await then(supervisor)
                supervisor._stopping.set()

            acting = asyncio.create_task(act())
            try:
                async with asyncio.timeout(60):
                    return await supervisor.run()
            finally:
                acting.cancel()

        return asyncio.run(main())

    def let_die(self) -> None:
        (self.folder / "die").touch()

    def scrapes(self) -> list[dict[str, Any]]:
        """The scrapes that are whole."""
        file = self.folder / "scrapes"
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    async def until(self, seen: Callable[[dict[str, Any]], bool]) -> None:
        """Wait for such a scrape."""
        while not any(map(seen, self.scrapes())):  # noqa: ASYNC110 # another process writes them
            await asyncio.sleep(0.01)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


async def nothing(_: Supervisor) -> None:
    """Stop at once."""


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "cornet.supervisor"]


def test_it_is_ready_when_all_are_and_stops_with_them(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    assert run.supervise([["serve"], ["serve"]], nothing) == 0
    assert events(caplog) == ["ready", "draining", "stopped"]


def test_a_worker_that_does_not_end_in_time_is_killed(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    assert run.supervise([["serve"], ["hang"]], nothing, stop_within_s=0.3) == 1
    assert "worker killed" in events(caplog)


def test_a_worker_that_cannot_start_is_the_end_of_all_and_its_reason_the_error(run: Run) -> None:
    with pytest.raises(Unavailable, match=r"^Expected another machine\.$"):
        run.supervise([["serve"], ["refuse"]], nothing)


def test_a_worker_that_dies_before_it_could_serve_is_named(run: Run) -> None:
    with pytest.raises(Unavailable, match=r"Worker 1 ended with exit status 9 before it could serve"):
        run.supervise([["serve"], ["vanish"]], nothing)


def test_a_successor_is_given_the_last_snapshot_and_no_scrape_lacks_it(run: Run) -> None:
    async def die(_: Supervisor) -> None:
        await run.until(lambda scrape: bool(scrape["parts"]))
        run.let_die()
        await run.until(lambda scrape: scrape == {"parts": [[1, "live", "1"]], "restarts": [0, 1]})

    run.supervise([["scrape"], ["die", "serve"]], die)

    after = [scrape["parts"][0] for scrape in run.scrapes() if scrape["restarts"] == [0, 1]]
    assert {body for _, _, body in after} == {"1"}


def test_a_worker_that_does_not_answer_in_time_is_left_out(run: Run) -> None:
    async def wait(_: Supervisor) -> None:
        await run.until(lambda scrape: [0, "live", ""] in scrape["parts"])

    run.supervise([["serve"], ["scrape"], ["silent"]], wait)

    assert run.scrapes()[-1]["parts"] == [[0, "live", ""], [2, "gone", ""]]


def test_it_gives_up_when_none_lives_and_none_can_be_started(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def die(_: Supervisor) -> None:
        run.let_die()
        await asyncio.Event().wait()

    with pytest.raises(Unavailable, match=r"No worker can be started any more.*exit status 9"):
        run.supervise([["die", "vanish"], ["die", "vanish"]], die)
    assert events(caplog).count("worker ended") >= 10


def test_a_failed_start_is_tried_again_as_long_as_another_worker_lives(run: Run) -> None:
    async def die(_: Supervisor) -> None:
        run.let_die()
        await run.until(lambda scrape: scrape["restarts"][1] == 7)

    assert run.supervise([["scrape"], ["die", "vanish"]], die) == 0


def test_a_taken_port_is_refused_before_any_worker_starts(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        plan = Plan(2, "127.0.0.1", 0, port, 1.0, "info", "json", {})
        with pytest.raises(FailedPrecondition, match=rf"HTTP port {port} on 127\.0\.0\.1 to be free.*in use"):
            asyncio.run(_run(plan))
    assert events(caplog) == []


async def _run(plan: Plan) -> int:
    return await Supervisor(plan).run()


@pytest.mark.parametrize(("status", "words"), [(0, "exit status 0"), (-signal.SIGKILL, "SIGKILL"), (-99, "signal 99")])
def test_an_exit_status_is_described(status: int, words: str) -> None:
    assert child.describe(status) == words

"""The supervisor of `cornet serve --workers N`: keeps N workers running on the same ports, and ends with them.

Start: the ports are reserved, the workers start and join the ports once their models are loaded; `ready` is logged when all
have. A worker that cannot start then is the end of all: its message is the error. Later, a worker that dies is started again
after a pause that grows with each early death; when none lives and none can be started, the supervisor gives up.

Stop, on SIGTERM or SIGINT: every worker drains; one that has not ended in time is killed. A second signal kills them all.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from services.errors import FailedPrecondition, Internal, Unavailable
from services.launch import READY_EVENT
from services.telemetry.log import get_logger
from services.workers import ports
from services.workers.backoff import Backoff
from services.workers.child import Child, describe
from services.workers.frames import Frame
from services.workers.plan import Plan

_COLLECT_S = 1.0
"""How long a scrape waits for a worker."""

_REMEMBER_S = 2.0
"""Pause between snapshots that nobody has asked for: what a worker counted in it is lost where it is killed."""

_HOPELESS = 5
"""Failed starts in a row, of every worker, after which the supervisor gives up."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_log = get_logger("cornet.supervisor")


class Slot:
    """One of the N places: its worker, the one before that, and what they have counted together."""

    def __init__(self, number: int, backoff: Backoff) -> None:
        self.number = number
        self.child: Child | None = None
        self.restarts = 0
        self.backoff = backoff
        self.snapshot = b""
        self.current = False
        """Whether the snapshot is the living worker's own, and not its predecessor's."""


class Supervisor:
    """See the module. `run` does it all and returns once every worker has ended.

    It raises CornetError where a port cannot be had, or the workers cannot start.
    """

    def __init__(self, plan: Plan, backoff: Callable[[], Backoff] = Backoff) -> None:
        self._plan = plan
        self._slots = [Slot(number, backoff()) for number in range(plan.workers)]
        self._started = time.time()
        self._stopping = asyncio.Event()
        self._all_ready = asyncio.Event()
        self._facts: dict[str, Any] = {}
        self._collecting: set[asyncio.Task[None]] = set()
        self._lifeline, self._held = os.pipe()
        self._addresses: dict[str, int] = {}
        self._was_killed = False

    async def run(self) -> int:
        """The exit status: 0 after an orderly stop, 1 where a worker had to be killed."""
        plan = self._plan
        self._heed_signals()
        with ports.reserve(plan.host, plan.grpc_port, self._no_grpc_port) as grpc:
            self._addresses["grpc_port"] = grpc.getsockname()[1]
            if plan.http_port is None:
                return await self._serve()
            with ports.reserve(plan.host, plan.http_port, self._no_http_port) as http:
                self._addresses["http_port"] = http.getsockname()[1]
                return await self._serve()

    async def _serve(self) -> int:
        stopping = asyncio.create_task(self._stopping.wait())
        keeping = [asyncio.create_task(self._keep(slot)) for slot in self._slots]
        ready = asyncio.create_task(self._announce())
        remembering = asyncio.create_task(self._remember())
        try:
            await asyncio.wait((stopping, *keeping), return_when=asyncio.FIRST_COMPLETED)
            if self._stopping.is_set():
                _log.info("draining")
        finally:
            self._stopping.set()
            ready.cancel()
            remembering.cancel()
            await self._stop_all()
            failures = [
                result for result in await asyncio.gather(*keeping, return_exceptions=True) if result is not None
            ]
        if failures:
            raise failures[0]
        _log.info("stopped")
        return int(self._was_killed)

    async def _announce(self) -> None:
        await self._all_ready.wait()
        _log.info(READY_EVENT, **self._facts, workers=self._plan.workers)

    # --- one worker after the other ---

    async def _keep(self, slot: Slot) -> None:
        """Have a worker in the slot until the supervisor stops."""
        while not self._stopping.is_set():
            try:
                child = slot.child = await self._start(slot)
            except OSError as error:  # no memory or no process to be had, for the moment
                await self._bury(slot, f"a start that failed: {error}", "", 0.0)
                continue
            if self._stopping.is_set():
                child.signal(signal.SIGTERM)
            status = await child.ended()
            slot.child, slot.current = None, False
            if not self._stopping.is_set():
                await self._bury(slot, describe(status), child.failure, child.lived_s)

    async def _start(self, slot: Slot) -> Child:
        boot = {
            "worker": slot.number,
            "workers": self._plan.workers,
            "started": self._started,
            "stop_within_s": self._plan.stop_within_s,
            "settings": {**self._plan.settings, **self._addresses},
            "models": self._plan.models,
            "http": self._plan.http_port is not None,
        }
        return await Child.start(
            self._lifeline, boot, slot.snapshot, lambda child, frame: self._hear(slot, child, frame)
        )

    async def _bury(self, slot: Slot, how: str, reason: str, lived_s: float) -> None:
        """Say what became of a worker, and wait until it is time for the next. Raises Unavailable where there is none."""
        if not self._all_ready.is_set():
            raise Unavailable(reason or f"Worker {slot.number} ended with {how} before it could serve; see its log.")
        pause_s = slot.backoff.pause_s(lived_s)
        fields: dict[str, Any] = {"reason": reason} if reason else {}
        _log.error("worker ended", worker=slot.number, how=how, lived_s=lived_s, restart_in_s=pause_s, **fields)
        if all(other.child is None and other.backoff.deaths >= _HOPELESS for other in self._slots):
            raise Unavailable(f"No worker can be started any more. The last one ended with {reason or how}.")
        slot.restarts += 1
        try:
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()
        except TimeoutError:
            pass

    def _hear(self, slot: Slot, child: Child, frame: Frame) -> None:
        match frame.kind:
            case "ready":
                child.ready_at = time.monotonic()
                self._facts = {name: frame.head[name] for name in ("grpc", "http", "models")}
                if all(other.child is not None and other.child.ready_at is not None for other in self._slots):
                    self._all_ready.set()
                if slot.restarts:
                    _log.info("worker ready again", worker=slot.number, restarts=slot.restarts)
            case "failed":
                child.failure = str(frame.head["reason"])
            case "snapshot":
                self._store(slot, frame.body)
                child.settle()
            case "collect":
                self._store(slot, frame.body)
                task = asyncio.create_task(self._collect(slot, child, frame.head["id"]))
                self._collecting.add(task)
                task.add_done_callback(self._collecting.discard)
            case kind:
                raise Internal(f"Expected a frame that a worker sends. Received: {kind}.")

    # --- counting ---

    def _store(self, slot: Slot, snapshot: bytes) -> None:
        slot.snapshot, slot.current = snapshot, True

    async def _remember(self) -> None:
        """Have a recent snapshot of each worker, whether or not somebody scrapes."""
        while True:
            await asyncio.sleep(_REMEMBER_S)
            for slot in self._slots:
                if slot.child is not None and slot.child.ready_at is not None:
                    slot.child.ask()

    async def _collect(self, asker: Slot, child: Child, number: int) -> None:
        """Answer a scrape: each of the others' snapshots, fresh where it comes in time."""
        others = [slot for slot in self._slots if slot is not asker]
        asked = {
            slot.number: slot.child.ask()
            for slot in others
            if slot.child is not None and slot.child.ready_at is not None
        }
        if asked:
            await asyncio.wait(asked.values(), timeout=_COLLECT_S)
        for slot in others:
            answer = asked.get(slot.number)
            if answer is not None and answer.done() and not answer.cancelled():
                presence = "live"
            else:
                presence = "late" if slot.current else "gone"
            child.send("part", slot.snapshot, id=number, worker=slot.number, presence=presence)
        child.send("end", id=number, restarts=[slot.restarts for slot in self._slots])

    # --- the end ---

    def _heed_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def begin() -> None:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
                loop.add_signal_handler(number, self._end_at_once, number)
            self._stopping.set()

        for number in _SIGNALS:
            loop.add_signal_handler(number, begin)

    def _end_at_once(self, number: signal.Signals) -> None:
        """The second signal: nobody waits any longer. The process ends as that signal would have ended it."""
        self._signal_all(signal.SIGKILL)
        asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    async def _stop_all(self) -> None:
        """Have every worker drain, and kill what has not ended in time."""
        self._signal_all(signal.SIGTERM)
        living = [slot.child.process.wait() for slot in self._slots if slot.child is not None]
        try:
            async with asyncio.timeout(self._plan.stop_within_s):
                await asyncio.gather(*living)
        except TimeoutError:
            for slot in self._slots:
                if slot.child is not None and slot.child.process.returncode is None:
                    self._was_killed = True
                    _log.error("worker killed", worker=slot.number, waited_s=self._plan.stop_within_s)
            self._signal_all(signal.SIGKILL)

    def _signal_all(self, number: signal.Signals) -> None:
        for slot in self._slots:
            if slot.child is not None:
                slot.child.signal(number)

    def _no_grpc_port(self, reason: str) -> Unavailable:
        address = f"{self._plan.host}:{self._plan.grpc_port}"
        return Unavailable(
            f"Cannot listen for gRPC on {address}: expected a free port on an address of this machine. Received: {reason}."
        )

    def _no_http_port(self, reason: str) -> FailedPrecondition:
        return FailedPrecondition(
            f"Expected HTTP port {self._plan.http_port} on {self._plan.host} to be free. Received: {reason}. "
            "Choose another with --http-port."
        )

"""One load test from the first call to the result: ask for the model, check an answer, run the steps.

Ctrl-C and SIGTERM end it early with a result of what ran so far; a second one ends the process.
"""

import asyncio
import platform
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

import numpy as np
import uvloop

from services.errors import Cancelled, FailedPrecondition, InvalidArgument, Unavailable
from services.loadtest import inputs as made
from services.loadtest.checks import check_answer
from services.loadtest.client_load import ClientWatch
from services.loadtest.dialect_typed import example_body
from services.loadtest.grpc_client import GrpcClient
from services.loadtest.http_client import HttpClient
from services.loadtest.loops import closed_loop, open_loop
from services.loadtest.measurement import Recorder
from services.loadtest.plan import Bounds, Load, Target, split_address
from services.loadtest.protocols import PROTOCOLS
from services.loadtest.requests import OK, Answer, Description, Request
from services.loadtest.result import SCHEMA_VERSION, step_result
from services.loadtest.schedules import constant, poisson
from services.loadtest.search import find_max
from services.loadtest.server_metrics import Scrape, difference
from services.loadtest.thresholds import Thresholds

Report = Callable[[dict[str, Any]], None]
_GRPC_CONNECTIONS = 4
_MIN_ACHIEVED = 0.95
"""An open loop whose good answers come at less than this share of the offered rate has met its limit."""


class _Client(Protocol):
    async def send(self, request: Request) -> Answer: ...
    async def close(self) -> None: ...


def run_steps(
    target: Target, bounds: Bounds, loads: Sequence[Load], thresholds: Thresholds, *, progress: Report = lambda _: None
) -> dict[str, Any]:
    """Run the loads one after the other. Returns the result as `result.py` describes it.

    Raises Unavailable where the server does not answer, FailedPrecondition where its answer is wrong.
    """
    largest = max(loads, key=lambda load: load.value)
    result: dict[str, Any] = uvloop.run(
        _run(target, bounds, partial(_each, loads=loads), largest, thresholds, progress)
    )
    return result


def run_search(
    target: Target,
    bounds: Bounds,
    start: Load,
    thresholds: Thresholds,
    *,
    tolerance: float = 0.05,
    progress: Report = lambda _: None,
) -> dict[str, Any]:
    """Find the highest load of `start`'s kind that keeps the thresholds. Returns the steps tried, and `search`."""
    search = partial(_search, start=start, tolerance=tolerance, most=float(bounds.max_in_flight))
    result: dict[str, Any] = uvloop.run(_run(target, bounds, search, None, thresholds, progress))
    return result


class _Interrupted(Exception):
    """Somebody ended the test."""


class _Session:
    """A server that is known to answer rightly, and the requests to send it. `stop` ends the step that runs, and the test."""

    def __init__(
        self, target: Target, bounds: Bounds, client: _Client, thresholds: Thresholds, progress: Report
    ) -> None:
        self.target = target
        self.bounds = bounds
        self.thresholds = thresholds
        self.steps: list[dict[str, Any]] = []
        self.stop = asyncio.Event()
        self._client = client
        self._progress = progress
        self._requests: list[Request] = []
        self._rows: int | None = target.rows

    async def prepare(self) -> dict[str, Any]:
        """Ask for the model, build the requests, check the first answer. Returns what is said of the target."""
        target, dialect = self.target, PROTOCOLS[self.target.protocol]
        answer = await self._client.send(dialect.describe(target.model))
        if answer.code != OK:
            raise Unavailable(
                f"Expected the metadata of {target.model.name} from {target.address}. Received: {answer.code} "
                f"{answer.body.decode(errors='replace')[:300]}"
            )
        description = dialect.description(target.model, answer)
        self._build(description)
        answer = await self._client.send(self._requests[0])
        if answer.code != OK:
            raise FailedPrecondition(
                f"Expected an answer of {target.model.name} to a first request. Received: {answer.code} "
                f"{answer.body.decode(errors='replace')[:300]}"
            )
        shapes = check_answer(dialect, answer, description, self._rows)
        inputs = description.signature.inputs if description.signature else ()
        return {
            "protocol": target.protocol,
            "address": target.address,
            "model": target.model.name,
            "version": target.model.version,
            "signature": target.model.signature,
            "inputs": [spec.to_json() for spec in inputs],
            "answer_shapes": {name: list(shape) for name, shape in shapes.items()},
            "rows_per_request": self._rows,
            "distinct_requests": len(self._requests),
            "request_bytes": max(len(request.body) for request in self._requests),
            "file": target.file.name if target.file else None,
            "seed": target.seed,
        }

    def _build(self, description: Description) -> None:
        target, dialect = self.target, PROTOCOLS[self.target.protocol]
        if target.file is not None and target.file.suffix == ".npz":
            arrays = made.read_arrays(target.file)
            self._rows = made.rows_of(arrays)
            self._requests = [dialect.predict(target.model, arrays)]
        elif target.file is not None and target.file.suffix in (".jsonl", ".parquet"):
            model = target.model
            logged = made.read_logged(target.file, model.name, model.signature, target.distinct)
            counts = {made.rows_of(arrays) for arrays in logged}
            self._rows = counts.pop() if len(counts) == 1 else None
            self._requests = [dialect.predict(model, arrays) for arrays in logged]
        elif target.file is not None and target.file.suffix != ".json":
            raise InvalidArgument(
                "Expected tensors (.npz), a JSON body (.json) or a request log (.jsonl, .parquet). "
                f"Received: {target.file.name}."
            )
        elif target.file is not None:
            self._rows = None
            self._requests = [dialect.predict_body(target.model, description, target.file.read_bytes())]
        elif description.signature is None:
            body = example_body(target.model, description, target.rows)
            self._requests = [dialect.predict_body(target.model, description, body)]
        else:
            rng = np.random.default_rng(target.seed)
            generate = partial(
                made.generate,
                description.signature,
                rng,
                rows=target.rows,
                variable_axis=target.variable_axis,
                shapes=target.shapes,
            )
            batches = [generate() for _ in range(target.distinct)]
            self._rows = made.rows_of(batches[0])
            self._requests = [dialect.predict(target.model, batch) for batch in batches]

    async def step(self, load: Load) -> dict[str, Any]:
        """Warm up, then measure one load between two scrapes of the server. Raises _Interrupted where it was cut short."""
        if self.bounds.warmup_s:
            await self._load(load, self.bounds.warmup_s)
        if self.stop.is_set():
            raise _Interrupted
        before = await self._scrape()
        watch = ClientWatch()
        recorder = await self._load(load, self.bounds.seconds)
        client = watch.stop(recorder.lateness)
        after = await self._scrape()
        server = difference(before, after) if before is not None and after is not None else None
        step = step_result(load, recorder, client, server, self._rows)
        step["broken"] = self.thresholds.broken(step)
        self.steps.append(step)
        self._progress(step)
        if self.stop.is_set():
            raise _Interrupted
        return step

    async def _load(self, load: Load, seconds: float) -> Recorder:
        bounds, send = self.bounds, self._client.send
        if load.kind == "closed":
            return await closed_loop(
                send,
                self._requests,
                concurrency=int(load.value),
                seconds=seconds,
                max_requests=bounds.max_requests,
                stop=self.stop,
            )
        rng = np.random.default_rng(self.target.seed)
        return await open_loop(
            send,
            self._requests,
            constant(load.value) if load.kind == "constant" else poisson(load.value, rng),
            seconds=seconds,
            max_requests=bounds.max_requests,
            max_in_flight=bounds.max_in_flight,
            stop=self.stop,
        )

    async def _scrape(self) -> Scrape | None:
        """The server's metrics; None where it has none to read."""
        if not self.target.metrics_url:
            return None
        url = self.target.metrics_url
        client = HttpClient(*split_address(url), connections=1, timeout_s=self.bounds.timeout_s)
        try:
            answer = await client.send(Request("/" + url.partition("//")[2].partition("/")[2], verb="GET"))
            return Scrape(answer.body.decode(), self.target.model.name) if answer.code == OK else None
        except ValueError:  # no exposition format
            return None
        finally:
            await client.close()


async def _run(
    target: Target,
    bounds: Bounds,
    body: Callable[[_Session], Any],
    largest: Load | None,
    thresholds: Thresholds,
    progress: Report,
) -> dict[str, Any]:
    client = _client(target, bounds, largest)
    search, interrupted = None, False
    try:
        session = _Session(target, bounds, client, thresholds, progress)
        described = await session.prepare()
        with _stopped_by_signals(session.stop):
            search = await body(session)
    except _Interrupted:
        interrupted = True
        if not session.steps:
            raise Cancelled("The test was interrupted before anything was measured.") from None
    finally:
        await client.close()
    kept = search["best"] is not None if search else not any(step["broken"] for step in session.steps)
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "target": described,
        "bounds": {name: getattr(bounds, name) for name in bounds.__slots__},
        "thresholds": {name: getattr(thresholds, name) for name in thresholds.__slots__},
        "client": {"python": platform.python_version(), "machine": platform.machine()},
        "steps": session.steps,
        "search": search,
        "passed": kept and not interrupted,
        "interrupted": interrupted,
    }


async def _each(session: _Session, *, loads: Sequence[Load]) -> None:
    for load in loads:
        await session.step(load)


async def _search(session: _Session, *, start: Load, tolerance: float, most: float) -> dict[str, Any]:
    closed = start.kind == "closed"
    limited = ""

    async def probe(value: float) -> bool:
        nonlocal limited
        step = await session.step(Load(start.kind, value))
        offered = step["requests"] / session.bounds.seconds
        if not closed and step["ok_per_s"] < _MIN_ACHIEVED * offered:
            step["broken"].append(f"{step['ok_per_s']:.1f} good answers/s of {offered:.1f} offered")
        if step["broken"] and step["client"]["limited"]:
            limited = step["client"]["limited"]
        return not step["broken"]

    found = await find_max(probe, start.value, tolerance=tolerance, most=most if closed else float("inf"), whole=closed)
    unit = "concurrency" if closed else "rate_per_s"
    best = next((step for step in session.steps if step["load"][unit] == found.best and not step["broken"]), None)
    return {
        "unit": unit,
        "best": found.best,
        "failed": found.failed,
        "tolerance": tolerance,
        "ok_per_s": best["ok_per_s"] if best else None,
        "client_limited": limited,
    }


@contextmanager
def _stopped_by_signals(stop: asyncio.Event) -> Iterator[None]:
    """Within it the first Ctrl-C or SIGTERM sets `stop`, and the second acts as ever. Only a main thread has signals."""
    loop, signals = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)

    def forget() -> None:
        for number in signals:
            loop.remove_signal_handler(number)

    def interrupt() -> None:
        forget()
        stop.set()

    with suppress(RuntimeError, ValueError):
        for number in signals:
            loop.add_signal_handler(number, interrupt)
    try:
        yield
    finally:
        forget()


def _client(target: Target, bounds: Bounds, largest: Load | None) -> _Client:
    host, port = split_address(target.address)
    if PROTOCOLS[target.protocol].is_grpc:
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return GrpcClient(address, connections=bounds.connections or _GRPC_CONNECTIONS, timeout_s=bounds.timeout_s)
    needed = int(largest.value) if largest is not None and largest.kind == "closed" else bounds.max_in_flight
    return HttpClient(host, port, connections=bounds.connections or needed, timeout_s=bounds.timeout_s)

"""A run: the servers started and checked, their cells measured round by round, and every process ended."""

import http.client
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tests.load.bench.cells import IN_PROCESS, LARGE_CONCURRENCY, Cell, Results, Sample
from tests.load.bench.figures import Figures, read_json
from tests.load.bench.generators import GENERATORS, Load, Target
from tests.load.bench.models import Model, describe
from tests.load.bench.processes import Child, Slot, core_ticks, free_ports, run
from tests.load.bench.protocols import GRPC, Request, build, problem
from tests.load.bench.servers import PROJECT, SERVERS, Place, Server

START_S = 90.0
_RETRY_S = 0.01
_CALL_S = 20.0
_SETTLED_S, _LOOK_S, _IDLE_SHARE = 20.0, 0.4, 0.1
Say = Callable[[str], None]


class ServerFailed(Exception):
    """A server did not start, or answered wrongly."""


@dataclass(frozen=True)
class Slots:
    """Where the servers and where the generators run."""

    server: Slot
    client: Slot


class Running:
    """A started server. `ask` sends one request; `expect` waits for the right answer to one."""

    def __init__(self, server: Server, place: Place, models: Mapping[str, Model], slot: Slot) -> None:
        self.server = server
        self.http, self.grpc = (f"127.0.0.1:{port}" for port in free_ports(2))
        ports = (int(address.rpartition(":")[2]) for address in (self.http, self.grpc))
        launch = server.launch(place, models, *ports)
        logs = place.folder / "logs"
        logs.mkdir(exist_ok=True)
        # pip compiles what it installs, other installers do not: all servers have bytecode from their second start on
        bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(place.folder / "bytecode")}
        environment = {**bytecode, **launch.environment}
        self.child = Child(launch.command, environment, slot, logs / f"{server.name}.log", launch.folder)

    def address(self, protocol: str) -> str:
        return self.grpc if protocol in GRPC else self.http

    def request(self, protocol: str, model: Model, rows: np.ndarray) -> Request:
        return build(protocol, model, rows, plain_typed=self.server.plain_typed)

    def expect(self, protocol: str, model: Model, timeout_s: float) -> tuple[Request, bytes]:
        """A request and its right answer, tried until the time is up. Raises ServerFailed with the last problem."""
        rows = model.rows()
        wanted, request = model.expected(rows), self.request(protocol, model, rows)
        end, trouble = time.monotonic() + timeout_s, "nothing was tried"
        while time.monotonic() < end:
            if self.child.exit_status is not None:
                raise ServerFailed(f"{self.server.name} ended with {self.child.exit_status}: {self.child.tail()}")
            try:
                answer = ask(request, self.address(protocol))
            except OSError as error:
                trouble = str(error)
                time.sleep(_RETRY_S)
                continue
            trouble = problem(request, model, answer, wanted) or ""
            if not trouble:
                return request, answer
            time.sleep(10 * _RETRY_S)
        raise ServerFailed(f"{self.server.name} {protocol} {model.name}: {trouble}")

    def settle(self) -> None:
        """Wait until what a server still does in the background after its start is done."""
        end, quiet = time.monotonic() + _SETTLED_S, 0
        while time.monotonic() < end and quiet < 3:
            before = self.child.cpu_s()
            time.sleep(_LOOK_S)
            quiet = quiet + 1 if self.child.cpu_s() - before < _IDLE_SHARE * _LOOK_S else 0


def ask(request: Request, address: str) -> bytes:
    """One request on a connection of its own. Raises OSError where it fails, with what the server said."""
    if request.is_grpc:
        return _ask_grpc(request, address)
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=_CALL_S)
    try:
        connection.request("POST", request.path, request.body, dict(request.headers))
        response = connection.getresponse()
        body = response.read()
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise OSError(f"HTTP {response.status}: {body[:300]!r}")
    return body


def _ask_grpc(request: Request, address: str) -> bytes:
    import grpc

    unbounded = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options=unbounded) as channel:
        try:
            answer: bytes = channel.unary_unary(request.path)(request.body, timeout=_CALL_S)
        except grpc.RpcError as error:
            raise OSError(f"{error.code().name}: {error.details()}") from error
    return answer


@dataclass
class Session:
    """Measures cells. Servers run side by side, idle but for the one that is measured."""

    place: Place
    models: Mapping[str, Model]
    slots: Slots
    say: Say

    def measure(self, cells: Sequence[Cell], rounds: int, seconds: int, results: Results) -> None:
        """Start the servers, check every pair of protocol and model, and go round the cells `rounds` times."""
        with ExitStack() as stack:
            running = self._start({cell.server for cell in cells}, stack, results, cells)
            describe(dict(self.models), self.place.description)
            targets = self._check(running, cells, results)
            for server in running.values():
                server.settle()
            for number in range(rounds):
                for cell in cells:
                    if cell not in results.failures:
                        self._one(cell, running.get(cell.server), targets.get(cell), number, seconds, results)

    def _start(
        self, names: Iterable[str], stack: ExitStack, results: Results, cells: Sequence[Cell]
    ) -> dict[str, Running]:
        """Those that start. What cannot run here is named once, and its cells are left out."""
        running = {}
        for server in (SERVERS[name] for name in SERVERS if name in set(names)):
            reason = server.missing(self.place)
            if reason is None:
                folder = self.place.folder / server.name
                folder.mkdir(exist_ok=True)
                own = replace(self.place, folder=folder)
                needed = {cell.model for cell in cells if cell.server == server.name}
                served = {name: model for name, model in self.models.items() if name in needed}
                started = Running(server, own, served, self.slots.server)
                stack.callback(started.child.stop)
                running[server.name] = started
            else:
                self.say(f"{server.name} is left out: {reason}")
                results.failures.update({cell: reason for cell in cells if cell.server == server.name})
        return running

    def _check(self, running: Mapping[str, Running], cells: Sequence[Cell], results: Results) -> dict[Cell, Target]:
        """Ask each server once for each of its pairs; a pair that fails is reported and not measured."""
        asked: dict[tuple[str, str, str], tuple[Request, bytes] | str] = {}
        targets = {}
        for cell in cells:
            server = running.get(cell.server)
            missing = GENERATORS[cell.generator].missing(self.place) if cell.generator in GENERATORS else None
            if missing is not None:
                results.failures[cell] = missing
            if server is None or cell in results.failures:
                continue
            pair = (cell.server, cell.protocol, cell.model)
            if pair not in asked:
                first = not any(known[0] == cell.server for known in asked)
                try:
                    asked[pair] = server.expect(cell.protocol, self.models[cell.model], START_S if first else _CALL_S)
                except ServerFailed as error:
                    self.say(f"left out: {error}")
                    asked[pair] = str(error)
                    if server.child.exit_status is not None:
                        results.failures.update({other: str(error) for other in cells if other.server == cell.server})
            found = asked[pair]
            server.child.prioritise()
            if isinstance(found, str):
                results.failures[cell] = found
            else:
                request, answer = found
                targets[cell] = Target(server.address(cell.protocol), cell.model, request, len(answer))
        return targets

    def _one(
        self, cell: Cell, running: Running | None, target: Target | None, number: int, seconds: int, results: Results
    ) -> None:
        """Measure a cell once; the first round of a small model is preceded by a second of warming up."""
        try:
            if number == 0 and not cell.is_large and cell.protocol != IN_PROCESS:
                self._load(cell, target, 1)
            began, before, cpu = time.perf_counter(), core_ticks(self.slots.server.cores), _cpu(running)
            own = _generator_cpu()
            figures = self._load(cell, target, cell.seconds(seconds))
            used = _generator_cpu() - own
        except (RuntimeError, ValueError, OSError) as error:
            self.say(f"{cell} failed: {error}")
            results.fail(cell, str(error))
            return
        cpu_s = _cpu(running) - cpu if running else figures.cpu_s
        elapsed = time.perf_counter() - began
        shared = running is None or not set(self.slots.server.cores).isdisjoint(self.slots.client.cores)
        ours = (cpu_s if running else 0.0) + (used if shared else 0.0)
        foreign = max(
            0.0, (core_ticks(self.slots.server.cores) - before - ours) / elapsed / len(self.slots.server.cores)
        )
        generator = 0.0 if running is None else used / elapsed / len(self.slots.client.cores)
        rss = running.child.memory_bytes()[0] if running else 0
        sample = Sample(figures, cpu_s, foreign, generator, rss)
        results.add(cell, sample)
        self.say(
            f"round {number + 1}  {cell!s:60} {figures.per_second:>11,.1f}/s  p50 {figures.p50_ms:8.3f}  "
            f"p99 {figures.p99_ms:8.3f} ms  errors {figures.errors}  cpu {sample.cpu_us:7.1f} us  "
            f"others {foreign:4.0%}"
        )

    def _load(self, cell: Cell, target: Target | None, seconds: int) -> Figures:
        if cell.protocol == IN_PROCESS:
            script = str(Path(__file__).parent / "clients" / "inprocess.py")
            command = [sys.executable, script, str(self.place.description), cell.model, str(cell.concurrency)]
            limit = seconds + START_S
            return read_json(run([*command, str(seconds)], self.slots.server, limit, {"PYTHONPATH": str(PROJECT)}))
        if target is None:
            raise ValueError("the cell has no server")
        requests = LARGE_CONCURRENCY * seconds if cell.is_large and cell.concurrency == LARGE_CONCURRENCY else 0
        load = Load(cell.concurrency, seconds, self.slots.client, requests)
        return GENERATORS[cell.generator].run(target, load, self.place)


def _cpu(running: Running | None) -> float:
    return running.child.cpu_s() if running else 0.0


def _generator_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime

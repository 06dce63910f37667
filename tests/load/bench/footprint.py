"""What a server costs before and beside the requests: cold start, memory, and what a change of version does to the tail."""

import shutil
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Self

from services.protocols import messages
from tests.load.bench.cells import usual
from tests.load.bench.generators import GENERATORS, Load, Target
from tests.load.bench.models import Model
from tests.load.bench.protocols import OIP_GRPC
from tests.load.bench.servers import SERVERS, Launch, Place, Server
from tests.load.bench.session import START_S, Running, ServerFailed, Session
from tests.load.bench.targets import Extras

_MODEL = "mlp"
_EVERY_S = 1.0


def measure_starts(session: Session, names: Iterable[str], starts: int, extras: Extras) -> None:
    """Start each server `starts` times in turn, with one small model, until its first right answer; then look at its memory.

    The starts before the first that counts put the files into the page cache, and leave Python's bytecode behind.
    """
    servers = [SERVERS[name] for name in names if SERVERS[name].missing(session.place) is None]
    model = session.models[_MODEL]
    for number in range(starts + 1):
        for server in servers:
            try:
                seconds, rss = _start_once(session, server, model, look=number == starts)
            except ServerFailed as error:
                session.say(f"cold start: {error}")
                continue
            if number:
                extras.cold_s.setdefault(server.name, []).append(seconds)
            if rss:
                extras.rss_bytes[server.name] = rss
            memory = f"  {rss / 1e6:.0f} MB" if rss else ""
            session.say(f"cold start {number}  {server.name:14} {seconds:6.2f} s{memory}")


def _start_once(session: Session, server: Server, model: Model, *, look: bool) -> tuple[float, int]:
    """Seconds to the first right answer, and the memory after a second of load where it is asked for."""
    place = replace(session.place, folder=session.place.folder / f"cold-{server.name}")
    place.folder.mkdir(exist_ok=True)
    running = Running(server, place, {model.name: model}, session.slots.server)
    try:
        protocol = server.protocols[0]
        request, answer = running.expect(protocol, model, START_S)
        seconds = time.perf_counter() - running.child.began
        if not look:
            return seconds, 0
        target = Target(running.address(protocol), model.name, request, len(answer))
        GENERATORS[usual(protocol)].run(target, Load(8, 1, session.slots.client), session.place)
        running.settle()
        return seconds, running.child.memory_bytes()[0]
    finally:
        running.child.stop()


def measure_swaps(session: Session, rounds: int, seconds: int, extras: Extras) -> None:
    """p99 at 64 concurrent, in turn without and with a new version every second, which replaces the one before."""
    place = replace(session.place, folder=session.place.folder / "swap")
    shutil.rmtree(place.folder, ignore_errors=True)
    repository = place.folder / "models" / _MODEL
    shutil.copytree(session.models[_MODEL].path.parent, repository / "1")
    model = replace(session.models[_MODEL], path=repository / "1" / "model.onnx")
    running = Running(
        _swapping(SERVERS["cornet"]), replace(place, models=repository.parent), {_MODEL: model}, session.slots.server
    )
    try:
        request, answer = running.expect(OIP_GRPC, model, START_S)
        target = Target(running.address(OIP_GRPC), _MODEL, request, len(answer))
        generator = GENERATORS[usual(OIP_GRPC)]
        load = Load(64, seconds, session.slots.client)
        generator.run(target, replace(load, seconds=1), session.place)
        extras.swap_errors = 0
        for _ in range(rounds):
            extras.quiet_p99_ms.append(generator.run(target, load, session.place).p99_ms)
            before = _version(running, model)
            with _Publisher(model):
                figures = generator.run(target, load, session.place)
            swaps = _version(running, model) - before
            extras.swap_p99_ms.append(figures.p99_ms)
            extras.swap_errors += figures.errors
            extras.swaps += swaps
            session.say(f"p99 quiet {extras.quiet_p99_ms[-1]:.2f} ms, with {swaps} swaps {figures.p99_ms:.2f} ms")
    except (ServerFailed, RuntimeError, ValueError) as error:
        session.say(f"version changes: {error}")
    finally:
        running.child.stop()


def _version(running: Running, model: Model) -> int:
    """The version that answers."""
    answer = running.expect(OIP_GRPC, model, START_S)[1]
    return int(messages.ModelInferResponse.FromString(answer).model_version)


def _swapping(server: Server) -> Server:
    """Looks for new versions five times a second."""

    def launch(place: Place, models: object, http: int, grpc: int) -> Launch:
        found = server.launch(place, models, http, grpc)  # type: ignore[arg-type]  # as it came
        return replace(found, environment={**found.environment, "CORNET_POLL_INTERVAL_S": "0.2"})

    return replace(server, launch=launch)


class _Publisher:
    """While the block runs, a copy of the model appears as the next version every second."""

    def __init__(self, model: Model) -> None:
        self._source = model.path.parent
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._publish, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _publish(self) -> None:
        root = self._source.parent
        while not self._done.wait(_EVERY_S):
            latest = max(int(folder.name) for folder in root.iterdir() if folder.name.isdigit())
            part = root / f".part-{latest + 1}"
            shutil.copytree(self._source, part)
            part.rename(root / str(latest + 1))

"""What a benchmark run was asked to do."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.load.bench.cells import Cell
from tests.load.bench.processes import Slot
from tests.load.bench.servers import PROJECT

QUICK, USUAL, FULL = "quick", "usual", "full"
STEPS = ("cells", "cold", "swap", "workers")
_KEYS = {
    "server": "server",
    "protocol": "protocol",
    "model": "model",
    "generator": "generator",
    "at-once": "concurrency",
}
_EPILOG = """examples:
  python -m tests.load.bench --quick
  python -m tests.load.bench --only server=cornet,triton model=mlp at-once=64 --steps cells --rounds 5
  python -m tests.load.bench --only server=cornet protocol=v2-json --also before=../cornet-before
"""


@dataclass(frozen=True)
class Options:
    size: str
    rounds: int
    seconds: int
    starts: int
    only: dict[str, frozenset[str]]
    steps: tuple[str, ...]
    server: Slot
    client: Slot
    folder: Path
    peers: Path
    repository: Path | None
    also: dict[str, Path]
    list_cells: bool

    def wants(self, cell: Cell) -> bool:
        return all(str(getattr(cell, _KEYS[key])) in values for key, values in self.only.items())


def parse(arguments: Sequence[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m tests.load.bench",
        description="Compare cornet with other servers on this machine, in one run, and judge the ratios.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--quick", action="store_true", help="two short rounds of what the ratios need; about three minutes"
    )
    size.add_argument(
        "--full", action="store_true", help="every server, protocol, model and concurrency; an hour and a half"
    )
    add("--rounds", type=int, help="rounds over all cells (5; quick: 2; full: 3)")
    add("--seconds", type=int, help="seconds per cell and round (2; quick: 1)")
    add("--starts", type=int, help="cold starts that count (5; quick: 1)")
    add(
        "--only",
        nargs="+",
        default=[],
        metavar="KEY=A,B",
        help=f"keep cells by {', '.join(_KEYS)}; out of all there are",
    )
    add("--steps", default=",".join(STEPS), help=f"out of {', '.join(STEPS)} (quick: no workers)")
    add("--server-core", default="0", help="cores of the servers, by commas (0)")
    add("--client-core", default="1", help="cores of the generators, by commas (1)")
    add(
        "--nice",
        type=int,
        default=0,
        help="priority of servers and generators; below 0 needs root, for a machine in use",
    )
    add(
        "--folder", type=Path, default=PROJECT / "runs" / "bench", help="where models, logs and results go (runs/bench)"
    )
    add("--peers", type=Path, default=PROJECT / ".bench-peers", help="what `make bench-peers` installed (.bench-peers)")
    add("--repository", type=Path, help="repository of the seven families (runs/demo/models, or trained here)")
    add(
        "--also", nargs="+", default=[], metavar="NAME=DIR", help="measure the cornet of other checkouts as cornet@NAME"
    )
    add("--list", action="store_true", help="print the cells and end")
    given = parser.parse_args(arguments)
    try:
        only = {key: frozenset(values.split(",")) for key, values in (part.split("=", 1) for part in given.only)}
        also = {name: Path(folder).resolve() for name, folder in (part.split("=", 1) for part in given.also)}
        server, client = (_cores(text) for text in (given.server_core, given.client_core))
    except ValueError as error:
        parser.error(f"expected KEY=VALUE, and numbers of cores: {error}")
    unknown = sorted({*only} - {*_KEYS}) + sorted({*given.steps.split(",")} - {*STEPS})
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    if not set(server + client) <= os.sched_getaffinity(0):
        parser.error(f"this process may use the cores {sorted(os.sched_getaffinity(0))} only")
    steps = tuple(step for step in given.steps.split(",") if not (given.quick and step == "workers"))
    size_name = QUICK if given.quick else FULL if given.full else USUAL
    return Options(
        size=size_name,
        rounds=given.rounds or {QUICK: 2, USUAL: 5, FULL: 3}[size_name],
        seconds=given.seconds or {QUICK: 1, USUAL: 2, FULL: 2}[size_name],
        starts=given.starts or {QUICK: 1, USUAL: 5, FULL: 5}[size_name],
        only=only,
        steps=steps,
        server=Slot(server, given.nice),
        client=Slot(client, given.nice),
        folder=given.folder.resolve(),
        peers=given.peers.resolve(),
        repository=given.repository,
        also=also,
        list_cells=given.list,
    )


def _cores(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))

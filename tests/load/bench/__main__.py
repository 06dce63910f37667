"""`make bench`: cornet beside other servers, in one run on this machine.

    python -m tests.load.bench --help

Nothing leaves loopback; every process that is started is ended, also on Ctrl-C.
"""

import json
import math
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from tests.load.bench import servers, table
from tests.load.bench.cells import Cell, Results, all_cells, judged_cells, usual_cells, worker_cells
from tests.load.bench.families import find_families
from tests.load.bench.footprint import measure_starts, measure_swaps
from tests.load.bench.machine import describe_machine, describe_pauses, describe_versions, watch_cores
from tests.load.bench.models import PEERS_MODELS, Model, link_families, read_models, write_peers_models
from tests.load.bench.options import FULL, QUICK, STEPS, USUAL, Options, parse
from tests.load.bench.processes import Slot
from tests.load.bench.servers import Place
from tests.load.bench.session import Session, Slots
from tests.load.bench.targets import Extras, judge

_STARTED = ("cornet", "cornet-lean", "triton", "mlserver", "kserve", "bento")
_STARTED_QUICKLY = _STARTED[:3]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: clean up, and show what there is
    began = time.perf_counter()
    place = Place(options.folder / "work", options.folder / "models", options.peers)
    place.folder.mkdir(parents=True, exist_ok=True)
    for name, checkout in options.also.items():
        servers.add_checkout(f"cornet@{name}", checkout)
    models = _models(options, place)
    families = [name for name in models if name not in PEERS_MODELS]
    cells = _cells(options, families)
    if options.list_cells:
        sys.stdout.writelines(f"{cell}\n" for cell in cells)
        return 0
    machine, versions = describe_machine(), describe_versions(place)
    stillness = watch_cores(sorted({*options.server.cores, *options.client.cores}), options.server.nice)
    machine["stillness"] = stillness
    session = Session(place, models, Slots(options.server, options.client), _say)
    results, workers, extras = Results(), Results(), Extras()
    try:
        _measure(options, session, cells, results, workers, extras)
    except KeyboardInterrupt:
        _say("interrupted: what was measured follows")
    verdicts = judge(results, extras, workers)
    document = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seconds": round(time.perf_counter() - began, 1),
        "machine": machine,
        "versions": versions,
        "options": _plain(asdict(options)),
        "cells": results.rows(),
        "workers": workers.rows(),
        "extras": asdict(extras),
        "ratios": [asdict(verdict) | {"reached": verdict.reached} for verdict in verdicts],
    }
    path = options.folder / f"bench-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(json.dumps(document, indent=1, default=str))
    table.show([table.figures_table(results), table.figures_table(workers), table.starts_table(extras)])
    _say(f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_at_start']:.1f} at the start; {path}")
    _say(f"At the start, {describe_pauses(stillness)}.")
    complete = options.size != QUICK and not options.only and len(options.steps) == len(STEPS)
    told = [verdict for verdict in verdicts if complete or not math.isnan(verdict.measured)]
    table.show([table.verdicts_table(told)])
    return 0


def _measure(
    options: Options, session: Session, cells: Sequence[Cell], results: Results, workers: Results, extras: Extras
) -> None:
    if "cold" in options.steps:
        names = [
            name for name in (_STARTED_QUICKLY if options.size == QUICK else _STARTED) if _wants_server(options, name)
        ]
        measure_starts(session, names, options.starts, extras)
    if "cells" in options.steps:
        session.measure(cells, options.rounds, options.seconds, results)
    if "swap" in options.steps and _wants_server(options, "cornet"):
        measure_swaps(session, options.rounds // 2 + 1, max(4, options.seconds), extras)
    if "workers" in options.steps and _wants_server(options, "cornet"):
        cores = (*options.server.cores, *options.client.cores)
        everywhere = Slot(cores, options.server.nice)
        shared = replace(session, slots=Slots(everywhere, everywhere))
        kept = [cell for cell in worker_cells() if options.wants(replace(cell, server="cornet"))]
        shared.measure(kept, options.rounds, options.seconds, workers)


def _wants_server(options: Options, name: str) -> bool:
    return name in options.only.get("server", {name})


def _cells(options: Options, families: Sequence[str]) -> list[Cell]:
    """The cells that are asked for; those of another checkout beside cornet's own."""
    cells = []
    choice = {QUICK: judged_cells, USUAL: usual_cells, FULL: all_cells}[FULL if options.only else options.size]
    for cell in choice(families):
        if options.wants(cell):
            cells.append(cell)
        if cell.server == "cornet" and options.wants(cell):
            cells += [replace(cell, server=f"cornet@{name}") for name in options.also]
    return cells


def _models(options: Options, place: Place) -> Mapping[str, Model]:
    wanted = options.only.get("model")
    plain = [name for name in PEERS_MODELS if wanted is None or name in wanted or name == "mlp"]
    write_peers_models(place.models, plain)
    if wanted is not None and not any(name.startswith("family-") for name in wanted):
        return read_models(place.models, plain)
    repository = find_families(options.repository, options.folder, _say)
    families = link_families(place.models, repository)
    return read_models(place.models, [*plain, *(name for name in families if wanted is None or name in wanted)])


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return sorted(value) if isinstance(value, frozenset) else str(value) if isinstance(value, Path) else value


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

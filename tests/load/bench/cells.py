"""What is measured: the cells of a run, and the results kept of each."""

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.load.bench.figures import Figures
from tests.load.bench.generators import H2LOAD, OFFICIAL, PERF_ANALYZER, VARIED, WRK
from tests.load.bench.protocols import (
    ECHO_GRPC,
    ECHO_HTTP,
    GRPC,
    OIP_GRPC,
    TFS_GRPC,
    TFS_REST,
    TYPED,
    V2_BINARY,
    V2_JSON,
)

IN_PROCESS, LIBRARY = "in-process", "onnxruntime"
"""The protocol and the server of the cells without a server."""

SMALL, MIDDLE, LARGE = ("mlp", "cnn"), ("lstm", "transformer"), ("vgg16",)
LARGE_CONCURRENCY = 8
LONGER = 3
"""How many times as long a round takes whose latencies are judged, or whose runs take seconds."""

_ECHOES = ("echo-native", "echo-nghttpd", "echo-aio", "echo-threads")

WORKER_LOAD = {**dict.fromkeys((*SMALL, *MIDDLE), 64), **dict.fromkeys(LARGE, LARGE_CONCURRENCY)}
"""Models and requests at once where one worker is compared with two."""


@dataclass(frozen=True, order=True)
class Cell:
    """One thing to measure. `concurrency` is rows per run where there is no server."""

    server: str
    protocol: str
    model: str
    generator: str
    concurrency: int

    def __str__(self) -> str:
        return f"{self.server} {self.protocol} {self.model} {self.generator} {self.concurrency}"

    @property
    def is_large(self) -> bool:
        """Whether a run of its model takes so long that a window would cut it."""
        return self.model.endswith(LARGE)

    def seconds(self, usual: int) -> int:
        """How long a round takes, where most take `usual` seconds."""
        return LONGER * usual if self.is_large or self in SPREAD else usual


SPREAD = (
    Cell("cornet", OIP_GRPC, "mlp", H2LOAD, 64),
    Cell("echo-native", ECHO_GRPC, "mlp", H2LOAD, 64),
    Cell("echo-nghttpd", ECHO_GRPC, "mlp", H2LOAD, 64),
    Cell(LIBRARY, IN_PROCESS, "cnn", LIBRARY, 64),
)
"""Where it counts how far the slow requests are from the others: the MLP, and as measures of the rig two servers without a
model, one on the same transport and one in C++, and a millisecond of arithmetic, always the same, that waits for nobody."""


@dataclass(frozen=True)
class Sample:
    """One round of a cell. `cpu_s` is the server's, or the library's where there is none.

    `foreign` is the part of the server's cores that others used meanwhile, `generator` the part of its own that the
    generator used: where that is all, it was the generator that could do no more.
    """

    figures: Figures
    cpu_s: float
    foreign: float
    generator: float
    rss_bytes: int

    @property
    def cpu_us(self) -> float:
        """The server's CPU microseconds per request."""
        return self.cpu_s / max(1, self.figures.requests, self.figures.answered) * 1e6


@dataclass
class Results:
    """The rounds of every cell, or why it is measured no more."""

    samples: dict[Cell, list[Sample]] = field(default_factory=dict)
    failures: dict[Cell, str] = field(default_factory=dict)
    stumbles: dict[Cell, str] = field(default_factory=dict)

    def add(self, cell: Cell, sample: Sample) -> None:
        self.samples.setdefault(cell, []).append(sample)

    def fail(self, cell: Cell, reason: str) -> None:
        """A round that failed. The first is let pass: a busy machine may stop for longer than a round."""
        if cell in self.stumbles:
            self.failures[cell] = reason
        self.stumbles[cell] = reason

    def find(self, server: str, protocol: str, model: str, concurrency: int, generator: str = "") -> list[Sample]:
        """The rounds of a cell; without a generator the one that is usual for the protocol."""
        return self.samples.get(Cell(server, protocol, model, generator or usual(protocol), concurrency), [])

    def rows(self) -> list[dict[str, Any]]:
        """Every cell as plain values: medians over its rounds, and the rounds themselves."""
        measured = [
            asdict(cell) | summary(samples) | {"rounds": [asdict(sample) for sample in samples]}
            for cell, samples in sorted(self.samples.items())
        ]
        failed = self.stumbles | self.failures
        return measured + [asdict(cell) | {"failed": reason} for cell, reason in sorted(failed.items())]


def summary(samples: Sequence[Sample]) -> dict[str, float]:
    """Medians over the rounds, the sum of errors, the most memory."""
    return {
        "per_second": median(sample.figures.per_second for sample in samples),
        "p50_ms": median(sample.figures.p50_ms for sample in samples),
        "p99_ms": median(sample.figures.p99_ms for sample in samples),
        "cpu_us": median(sample.cpu_us for sample in samples),
        "errors": sum(sample.figures.errors for sample in samples),
        "rss_bytes": max(sample.rss_bytes for sample in samples),
        "foreign": median(sample.foreign for sample in samples),
        "generator_share": median(sample.generator for sample in samples),
    }


def median(values: Iterable[float]) -> float:
    """NaN of nothing."""
    kept = [value for value in values if not math.isnan(value)]
    return statistics.median(kept) if kept else math.nan


def usual(protocol: str) -> str:
    """The generator that loads a server most with a protocol."""
    return H2LOAD if protocol in GRPC else LIBRARY if protocol == IN_PROCESS else WRK


def judged_cells(families: Sequence[str]) -> list[Cell]:
    """The cells that the ratios are made of."""
    cells = [_cell(server, OIP_GRPC, model, 64) for server in ("cornet", "triton", "aio") for model in SMALL]
    cells += [_cell(server, OIP_GRPC, model, 1) for server in ("cornet", "triton") for model in SMALL]
    cells += [_cell("cornet", TFS_GRPC, model, count) for model in SMALL for count in (64, 1)]
    cells += [_cell(server, V2_JSON, model, 64) for server in ("cornet", "triton") for model in SMALL]
    cells += [_cell(server, V2_BINARY, "cnn", 64) for server in ("cornet", "triton")]
    cells += [_cell(server, OIP_GRPC, model, 64) for server in ("cornet", "triton") for model in MIDDLE]
    cells += [_cell("cornet", OIP_GRPC, model, LARGE_CONCURRENCY) for model in LARGE]
    cells += [_cell(LIBRARY, IN_PROCESS, model, rows) for model in LARGE for rows in (1, LARGE_CONCURRENCY)]
    cells += [cell for cell in SPREAD if cell not in cells]
    real = (VARIED, PERF_ANALYZER)
    cells += [Cell(server, OIP_GRPC, "mlp", how, 64) for server in ("cornet", "triton") for how in real]
    if "family-regressor" in families:
        cells += [_cell(server, TYPED, "family-regressor", 64) for server in ("cornet", "bento", "bento-batch")]
    return _side_by_side(cells)


def usual_cells(families: Sequence[str]) -> list[Cell]:
    """The judged cells, and what they are seen against: bare echoes, the library alone, grpcio, the other protocols."""
    cells = [_cell(server, ECHO_GRPC, "mlp", 64) for server in _ECHOES]
    cells += [_cell("echo-asgi", ECHO_HTTP, "mlp", 64)]
    cells += [_cell(LIBRARY, IN_PROCESS, model, rows) for model in (*SMALL, *MIDDLE) for rows in (1, 64)]
    cells += [_cell(server, OIP_GRPC, model, 64) for model in SMALL for server in ("cornet-grpcio", "threads")]
    cells += [_cell(server, OIP_GRPC, model, 8) for model in SMALL for server in ("cornet", "triton")]
    cells += [_cell("cornet", TFS_REST, model, 64) for model in SMALL]
    cells += [_cell("cornet", V2_BINARY, "mlp", 64), _cell("triton", V2_BINARY, "mlp", 64)]
    cells += [
        _cell(server, protocol, "mlp", 64) for server in ("mlserver", "kserve") for protocol in (OIP_GRPC, V2_JSON)
    ]
    cells += [Cell(server, OIP_GRPC, "mlp", OFFICIAL, 64) for server in ("cornet", "triton")]
    return _merged(judged_cells(families), cells)


def all_cells(families: Sequence[str]) -> list[Cell]:
    """Every combination that is worth its time."""
    servers = ("cornet", "cornet-grpcio", "triton", "aio", "threads", "mlserver", "kserve")
    http = ("cornet", "triton", "mlserver", "kserve")
    combine = itertools.product
    cells = [_cell(server, OIP_GRPC, model, count) for model, count, server in combine(SMALL, (1, 8, 64), servers)]
    cells += [_cell("cornet", TFS_GRPC, model, count) for model, count in combine(SMALL, (1, 8, 64))]
    cells += [_cell(server, V2_JSON, model, count) for model, count, server in combine(SMALL, (1, 8, 64), http)]
    cells += [_cell(server, V2_BINARY, m, count) for m, count, server in combine(SMALL, (1, 8, 64), http[:2])]
    cells += [_cell("cornet", TFS_REST, model, count) for model, count in combine(SMALL, (1, 8, 64))]
    cells += [_cell(server, OIP_GRPC, model, 64) for model, server in combine(MIDDLE, servers)]
    cells += [_cell(server, OIP_GRPC, LARGE[0], LARGE_CONCURRENCY) for server in servers]
    cells += [_cell(server, ECHO_GRPC, "mlp", 64) for server in _ECHOES]
    cells += [_cell("echo-asgi", ECHO_HTTP, "mlp", 64)]
    cells += [_cell(LIBRARY, IN_PROCESS, model, rows) for model, rows in combine((*SMALL, *MIDDLE), (1, 64))]
    real = combine((VARIED, PERF_ANALYZER, OFFICIAL), ("cornet", "cornet-grpcio", "triton"))
    cells += [Cell(server, OIP_GRPC, "mlp", how, 64) for how, server in real]
    cells += [Cell(server, protocol, "mlp", OFFICIAL, 1) for protocol, server in combine((OIP_GRPC, V2_JSON), http[:2])]
    cells += [Cell("cornet", TFS_GRPC, "mlp", OFFICIAL, 1)]
    for name in families:
        most = LARGE_CONCURRENCY if name.endswith("vgg16") else 64
        cells += [_cell(server, OIP_GRPC, name, most) for server in ("cornet", "triton")]
        cells += [_cell(LIBRARY, IN_PROCESS, name, most)]
    return _merged(usual_cells(families), cells)


def worker_cells() -> list[Cell]:
    """One worker against two, on all cores."""
    servers = ("cornet-1", "cornet-2")
    return [_cell(server, OIP_GRPC, model, count) for model, count in WORKER_LOAD.items() for server in servers]


def _merged(wanted: Sequence[Cell], more: Sequence[Cell]) -> list[Cell]:
    return _side_by_side([*wanted, *(cell for cell in more if cell not in set(wanted))])


def _side_by_side(cells: Sequence[Cell]) -> list[Cell]:
    """What is compared follows each other, so that it meets the machine in the same state."""
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.model, cell.concurrency), []).append(cell)
    order = (*SMALL, *MIDDLE, *LARGE)
    ranked = sorted(groups, key=lambda key: (order.index(key[0]) if key[0] in order else len(order), key))
    return [cell for key in ranked for cell in sorted(groups[key], key=lambda cell: (cell.generator, cell.protocol))]


def _cell(server: str, protocol: str, model: str, concurrency: int) -> Cell:
    return Cell(server, protocol, model, usual(protocol), concurrency)

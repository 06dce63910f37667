"""The ratios the project aims at, from the results of one run: what was asked for, what was measured, reached or not."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.load.bench.cells import (
    IN_PROCESS,
    LARGE_CONCURRENCY,
    LIBRARY,
    SPREAD,
    WORKER_LOAD,
    Results,
    Sample,
    median,
)
from tests.load.bench.generators import PERF_ANALYZER, VARIED
from tests.load.bench.protocols import ECHO_GRPC, ECHO_HTTP, OIP_GRPC, TFS_GRPC, TYPED, V2_BINARY, V2_JSON

MB = 1_000_000


@dataclass
class Extras:
    """What is measured outside the cells.

    `cold_s` has seconds to the first right answer, `rss_bytes` the memory with the MLP, by server; `quiet_p99_ms` and
    `swap_p99_ms` the rounds without and with version changes, `swap_errors` the failed requests of the latter.
    """

    cold_s: dict[str, list[float]] = field(default_factory=dict)
    rss_bytes: dict[str, int] = field(default_factory=dict)
    quiet_p99_ms: list[float] = field(default_factory=list)
    swap_p99_ms: list[float] = field(default_factory=list)
    swap_errors: int | None = None
    swaps: int = 0


@dataclass(frozen=True)
class Verdict:
    """One line of the end: `measured` is NaN where a cell of it was not measured, `by_cpu` where the servers' CPU
    time says nothing of it."""

    text: str
    bound: float
    at_least: bool
    measured: float
    unit: str = "x"
    by_cpu: float = math.nan

    @property
    def reached(self) -> bool | None:
        """None where it was not measured, or nothing was asked for."""
        if math.isnan(self.measured) or math.isnan(self.bound):
            return None
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound


def ratio(ours: Iterable[Sample], theirs: Iterable[Sample], value: Callable[[Sample], float]) -> float:
    """Median over the rounds of the quotient: both sides of a round met the same machine. NaN without rounds."""
    return median(value(a) / value(b) for a, b in zip(ours, theirs, strict=False) if value(b))


def rate(sample: Sample) -> float:
    return sample.figures.per_second


def p50(sample: Sample) -> float:
    return sample.figures.p50_ms


def spread(sample: Sample) -> float:
    return sample.figures.p99_ms / sample.figures.p50_ms


def judge(results: Results, extras: Extras, workers: Results | None = None) -> list[Verdict]:
    """Every ratio, in the order of the README."""
    return [
        *_grpc(results),
        *_rest(results),
        *_large(results),
        *_real_clients(results),
        *_latency(results, extras),
        *_typed(results),
        *_footprint(extras),
        *_workers(workers or Results()),
        *_for_orientation(results),
    ]


def _rates(text: str, bound: float, ours: list[Sample], theirs: list[Sample]) -> Verdict:
    """Requests per second of the one over the other's; and per CPU second of the servers, which other work on the machine
    and a generator at its end hurt less."""
    by_cpu = ratio(theirs, ours, lambda sample: sample.cpu_us)
    return Verdict(text, bound, True, ratio(ours, theirs, rate), by_cpu=by_cpu)


def _grpc(results: Results) -> list[Verdict]:
    verdicts = []
    for protocol, name in ((OIP_GRPC, "ModelInfer"), (TFS_GRPC, "Predict")):
        for model in ("mlp", "cnn"):
            ours = results.find("cornet", protocol, model, 64)
            for peer, label, bound in (("triton", "Triton", 3.0), ("aio", "grpc.aio", 10.0)):
                theirs = results.find(peer, OIP_GRPC, model, 64)
                verdicts.append(_rates(f"gRPC {name}, {model}, 64: requests/s over {label}'s", bound, ours, theirs))
            alone = results.find("cornet", protocol, model, 1), results.find("triton", OIP_GRPC, model, 1)
            verdicts.append(Verdict(f"gRPC {name}, {model}, 1: p50 over Triton's", 1.0, False, ratio(*alone, p50)))
    return verdicts


def _rest(results: Results) -> list[Verdict]:
    asked = ((V2_JSON, "mlp", 2.0), (V2_JSON, "cnn", 2.0), (V2_BINARY, "cnn", 1.5))
    return [
        _rates(
            f"REST {protocol}, {model}, 64: requests/s over Triton's",
            bound,
            results.find("cornet", protocol, model, 64),
            results.find("triton", protocol, model, 64),
        )
        for protocol, model, bound in asked
    ]


def _large(results: Results) -> list[Verdict]:
    verdicts = [
        _rates(
            f"gRPC ModelInfer, {model}, 64: requests/s over Triton's",
            1.3,
            results.find("cornet", OIP_GRPC, model, 64),
            results.find("triton", OIP_GRPC, model, 64),
        )
        for model in ("lstm", "transformer")
    ]
    served = results.find("cornet", OIP_GRPC, "vgg16", LARGE_CONCURRENCY)
    by_batch = [results.find(LIBRARY, IN_PROCESS, "vgg16", rows) for rows in (1, LARGE_CONCURRENCY)]
    best = max(by_batch, key=lambda samples: median(map(rate, samples)) if samples else 0.0)
    return [*verdicts, _rates("vgg16: images/s over onnxruntime's in process", 0.97, served, best)]


def _real_clients(results: Results) -> list[Verdict]:
    return [
        _rates(
            f"gRPC ModelInfer, mlp, 64, {name}: requests/s over Triton's",
            2.0,
            results.find("cornet", OIP_GRPC, "mlp", 64, generator),
            results.find("triton", OIP_GRPC, "mlp", 64, generator),
        )
        for generator, name in ((VARIED, "headers that vary"), (PERF_ANALYZER, "perf_analyzer"))
    ]


def _latency(results: Results, extras: Extras) -> list[Verdict]:
    served, echoed, foreign, computed = (median(map(spread, results.samples.get(cell, ()))) for cell in SPREAD)
    swapping = median(swap / quiet for swap, quiet in zip(extras.swap_p99_ms, extras.quiet_p99_ms, strict=False))
    failed = math.nan if extras.swap_errors is None else float(extras.swap_errors)
    return [
        Verdict("gRPC ModelInfer, mlp, 64: p99 over p50", 2.0, False, served),
        Verdict("the same of a bare echo on its transport", math.nan, False, echoed),
        Verdict("the same of nghttpd, a server in C++: the rig's own", math.nan, False, foreign),
        Verdict(
            "the same of one run of a model again and again, in process: the core's own", math.nan, False, computed
        ),
        Verdict("while versions load and swap: p99 over the quiet p99", 3.0, False, swapping),
        Verdict("while versions load and swap: failed requests", 0.0, False, failed, ""),
    ]


def _typed(results: Results) -> list[Verdict]:
    model = "family-regressor"
    ours = results.find("cornet", TYPED, model, 64)
    return [
        _rates(
            f"typed endpoint, 64: requests/s over plain BentoML's{name}",
            2.0,
            ours,
            results.find(peer, TYPED, model, 64),
        )
        for peer, name in (("bento", ""), ("bento-batch", ", batchable"))
    ]


def _footprint(extras: Extras) -> list[Verdict]:
    ours, theirs = (median(extras.cold_s.get(name, ())) for name in ("cornet", "triton"))
    with_endpoints, without = (extras.rss_bytes.get(name, math.nan) / MB for name in ("cornet", "cornet-lean"))
    return [
        Verdict("cold start to the first right answer over Triton's", 0.6, False, ours / theirs),
        Verdict("resident memory with the mlp, without the typed endpoints", 120.0, False, without, " MB"),
        Verdict("resident memory with the mlp, with the typed endpoints", 200.0, False, with_endpoints, " MB"),
    ]


def _workers(workers: Results) -> list[Verdict]:
    """Servers and generator share all cores: a second worker has only what the first and the generator leave."""
    verdicts = []
    for model, count in WORKER_LOAD.items():
        one, two = (workers.find(server, OIP_GRPC, model, count) for server in ("cornet-1", "cornet-2"))
        text = f"two workers over one, all cores shared with the generator, {model}: requests/s"
        verdicts.append(Verdict(text, 1.0, True, ratio(two, one, rate)))
    return verdicts


def _for_orientation(results: Results) -> list[Verdict]:
    """How far a served model is from the bare transport, and from the library without one."""
    verdicts = []
    for model in ("mlp", "cnn"):
        ours = results.find("cornet", OIP_GRPC, model, 64)
        for name, theirs in (
            ("a bare echo's, own transport", results.find("echo-native", ECHO_GRPC, "mlp", 64)),
            ("nghttpd's, in C++ without a model", results.find("echo-nghttpd", ECHO_GRPC, "mlp", 64)),
            ("cornet's on grpcio", results.find("cornet-grpcio", OIP_GRPC, model, 64)),
            ("onnxruntime's in process, one row a run", results.find(LIBRARY, IN_PROCESS, model, 1)),
            ("onnxruntime's in process, 64 rows a run", results.find(LIBRARY, IN_PROCESS, model, 64)),
        ):
            verdicts.append(_rates(f"gRPC ModelInfer, {model}, 64: requests/s over {name}", math.nan, ours, theirs))
    http = results.find("echo-asgi", ECHO_HTTP, "mlp", 64)
    rest = results.find("cornet", V2_JSON, "mlp", 64)
    return [*verdicts, _rates("REST v2-json, mlp, 64: requests/s over a bare ASGI echo's", math.nan, rest, http)]

"""What the metrics cost on the fastest path there is: both gRPC dialects on a small MLP, 64 requests at a time.

    python tests/load/metrics_cost.py [rounds]

Rounds with metrics and rounds with stubs in their place alternate; the figures are medians of the CPU time per request. There
is no transport in it: a server's share is what is printed in microseconds, over that server's CPU time per request.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop
from hot_path import Case, Waiting, cases, write_cnn

from services import testing
from services.engine.engine import Engine, EngineOptions
from services.frontends.grpc.call import serve
from services.telemetry.metrics import BatchMetrics, Metrics

REQUESTS = 4096


class Uncounted(Waiting):
    """A call that neither tells the time nor counts itself."""

    started_at = 0.0

    def __init__(self, method: Any, metadata: Any, deadline: float | None, metrics: Metrics) -> None:
        self.metrics = metrics
        self.method = method
        self.headers = metadata
        self.deadline = deadline


class NoSeries:
    """Takes the place of a batcher's histograms."""

    FULL = 1
    kept = property(lambda _: [], lambda _, value: None)

    def extend(self, values: list[float]) -> None:
        pass


class StubbedMetrics(Metrics):
    def batch(self, *_: object) -> BatchMetrics:
        series = BatchMetrics()
        series.queue_seconds = series.runs = NoSeries()
        return series


async def started(root: Path, metrics: Metrics) -> tuple[Engine, list[Case]]:
    options = EngineOptions(repository=root, poll_interval_s=0, intra_op_threads=1, inline_us=1e6)
    engine = Engine(options, metrics=metrics)
    await engine.start()
    return engine, [case for case in cases(engine) if case.name.endswith("mlp x64")]


async def cost_us(kind: type[Waiting], case: Case, metrics: Metrics) -> float:
    """CPU microseconds of one request, over a round of them."""
    method, concurrency = case.method, case.concurrency
    began = time.process_time()
    for _ in range(REQUESTS // concurrency):
        Waiting.answered = 0
        for data in case.data:
            serve(method, data, kind(method, (), None, metrics))
        while Waiting.answered < concurrency:  # noqa: ASYNC110 - turns of the loop are what is measured
            await asyncio.sleep(0)
    return (time.process_time() - began) / REQUESTS * 1e6


async def main(rounds: int) -> None:
    kinds, all_metrics = (Waiting, Uncounted), (Metrics(gpus=False), StubbedMetrics(gpus=False))
    with tempfile.TemporaryDirectory() as folder:
        testing.write_mlp(Path(folder) / "mlp" / "1")
        write_cnn(Path(folder) / "cnn" / "1")
        sides = [await started(Path(folder), metrics) for metrics in all_metrics]
        for case in sides[1][1]:
            case.method.handler.__self__.count = lambda *_: None
        costs: dict[str, tuple[list[float], list[float]]] = {case.name: ([], []) for case in sides[0][1]}
        for number in range(rounds + 1):
            for place, kept in enumerate(costs.values()):
                for side in (0, 1) if number % 2 else (1, 0):
                    cost = await cost_us(kinds[side], sides[side][1][place], all_metrics[side])
                    if number:  # the first round warms up
                        kept[side].append(cost)
        for engine, _ in sides:
            await engine.stop()
    for name, both in costs.items():
        on, off = map(statistics.median, both)
        share = statistics.median(a / b for a, b in zip(*both, strict=True)) - 1
        sys.stdout.write(
            f"{name}: with metrics {on:.2f} us, without {off:.2f} us: {on - off:.2f} us, {share:.1%} per request "
            f"(least: {min(both[0]):.2f} and {min(both[1]):.2f} us)\n"
        )


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100))

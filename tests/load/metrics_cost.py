"""What the metrics cost on the fastest path there is: the engine and the OIP gRPC codec in one process, a model of two nodes.

    python tests/load/metrics_cost.py [rounds]

Rounds with metrics and rounds with stubs in their place alternate; the figures are medians of the CPU time per request.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from services import testing
from services.engine.engine import Engine, EngineOptions
from services.frontends.grpc.call import Call, UnaryMethod, serve
from services.frontends.grpc.inference_service import InferenceService
from services.protocols.messages import ModelInferRequest
from services.server_info import ServerInfo
from services.telemetry.metrics import BatchMetrics, Metrics

REQUESTS = 1000
METHOD = "/inference.GRPCInferenceService/ModelInfer"


class Counted(Call):
    """A call without a transport."""

    def _send(self, data: bytes) -> None:
        pass

    def _send_error(self, code: int, text: str) -> None:
        raise RuntimeError(text)


class Uncounted(Counted):
    def finish(self, code: int, sent_bytes: int = 0) -> None:
        pass


class NoSeries:
    """Takes the place of a batcher's histograms."""

    FULL = 1
    kept = property(lambda _: [], lambda _, value: None)

    def observe(self, value: float) -> None:
        pass


class StubbedMetrics(Metrics):
    def batch(self, *_: object) -> BatchMetrics:
        series = BatchMetrics()
        series.queue_seconds = series.runs = NoSeries()
        return series


async def started(root: Path, metrics: Metrics) -> tuple[Engine, UnaryMethod]:
    engine = Engine(EngineOptions(repository=root, poll_interval_s=0), metrics=metrics)
    await engine.start()
    method = InferenceService(engine, ServerInfo()).methods()[METHOD]
    return engine, method


async def cost_us(kind: type[Call], method: UnaryMethod, metrics: Metrics, data: bytes) -> float:
    """CPU microseconds of one request, over a round of them."""
    began = time.process_time()
    for _ in range(REQUESTS):
        serve(method, data, kind(method, (), None, metrics))
        await asyncio.sleep(0)
    return (time.process_time() - began) / REQUESTS * 1e6


def request() -> bytes:
    message = ModelInferRequest(model_name="half_plus_two")
    message.inputs.add(name="x", datatype="FP32", shape=[1, 1])
    message.raw_input_contents.append(np.ones(1, np.float32).tobytes())
    data: bytes = message.SerializeToString()
    return data


async def main(rounds: int) -> None:
    data, kinds, all_metrics = request(), (Counted, Uncounted), (Metrics(gpus=False), StubbedMetrics(gpus=False))
    with tempfile.TemporaryDirectory() as folder:
        testing.write_half_plus_two(Path(folder) / "half_plus_two" / "1")
        sides = [await started(Path(folder), metrics) for metrics in all_metrics]
        costs: tuple[list[float], list[float]] = ([], [])
        for number in range(rounds + 1):
            for side in (0, 1) if number % 2 else (1, 0):
                cost = await cost_us(kinds[side], sides[side][1], all_metrics[side], data)
                if number:  # the first round warms up
                    costs[side].append(cost)
        for engine, _ in sides:
            await engine.stop()
    on, off = map(statistics.median, costs)
    share = statistics.median(a / b for a, b in zip(*costs, strict=True)) - 1
    sys.stdout.write(f"with metrics {on:.2f} us, without {off:.2f} us: {on - off:.2f} us, {share:.1%} per request\n")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100))

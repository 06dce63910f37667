"""CPU time of a request from its bytes to the bytes of its answer, without a transport: front end, codec, engine and model.

    python tests/load/hot_path.py [rounds] [--only oip-mlp ...] [--profile]

Every case serves a model in this process at 1 and at 64 requests at a time; each figure is the median over the rounds, which
go round the cases in turn, so that what else the machine does falls on all of them. `--profile` prints where the time goes.
"""

import argparse
import asyncio
import cProfile
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import uvloop

from services import testing
from services.engine.engine import Engine, EngineOptions
from services.frontends.grpc.call import Call, UnaryMethod, serve
from services.frontends.grpc.inference_service import InferenceService
from services.frontends.grpc.prediction_service import PredictionService
from services.protocols.messages import ModelInferRequest, PredictRequest
from services.server_info import ServerInfo
from services.telemetry.metrics import Metrics

REQUESTS = 2048
"""Per round and case."""


@dataclass
class Case:
    """One dialect on one model, so many requests at a time; `cpu_us` and `wall_us` have one figure per round."""

    name: str
    method: UnaryMethod
    data: list[bytes]
    concurrency: int
    cpu_us: list[float] = field(default_factory=list)
    wall_us: list[float] = field(default_factory=list)


class Waiting(Call):
    """A call without a transport, that counts itself."""

    answered = 0

    def _send(self, data: bytes) -> None:
        Waiting.answered += 1

    def _send_error(self, code: int, text: str) -> None:
        raise RuntimeError(text)


async def measure(case: Case, metrics: Metrics) -> None:
    """One round of a case."""
    latencies = []
    method, data, concurrency = case.method, case.data, case.concurrency
    began = time.process_time()
    for _ in range(REQUESTS // concurrency):
        sent = time.perf_counter()
        Waiting.answered = 0
        for body in data:
            serve(method, body, Waiting(method, (), None, metrics))
        while Waiting.answered < concurrency:  # noqa: ASYNC110 - turns of the loop are what is measured
            await asyncio.sleep(0)
        latencies.append(time.perf_counter() - sent)
    case.cpu_us.append((time.process_time() - began) / REQUESTS * 1e6)
    case.wall_us.append(statistics.median(latencies) * 1e6)


def infer_request(model: str, name: str, rows: np.ndarray) -> bytes:
    message = ModelInferRequest(model_name=model)
    message.inputs.add(name=name, datatype="FP32", shape=rows.shape)
    message.raw_input_contents.append(rows.tobytes())
    data: bytes = message.SerializeToString()
    return data


def predict_request(model: str, name: str, rows: np.ndarray) -> bytes:
    message = PredictRequest()
    message.model_spec.name = model
    tensor = message.inputs[name]
    tensor.dtype = 1
    for size in rows.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = rows.tobytes()
    data: bytes = message.SerializeToString()
    return data


def write_cnn(version: Path) -> Path:
    """Two convolutions and two dense layers on `image` float32 `[-1, 28, 28, 1]`, to `probabilities` `[-1, 10]`."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32) / np.prod(shape[1:]).astype(np.float32) ** 0.5

    return testing.write_graph(
        version,
        [
            ("Transpose", ["image"], ["x"], {"perm": [0, 3, 1, 2]}),
            ("Conv", ["x", "c1"], ["a1"]),
            ("Relu", ["a1"], ["r1"]),
            ("MaxPool", ["r1"], ["p1"], {"kernel_shape": [2, 2], "strides": [2, 2]}),
            ("Conv", ["p1", "c2"], ["a2"]),
            ("Relu", ["a2"], ["r2"]),
            ("MaxPool", ["r2"], ["p2"], {"kernel_shape": [2, 2], "strides": [2, 2]}),
            ("Flatten", ["p2"], ["f"]),
            ("Gemm", ["f", "w1"], ["d1"]),
            ("Relu", ["d1"], ["r3"]),
            ("Gemm", ["r3", "w2"], ["d2"]),
            ("Softmax", ["d2"], ["probabilities"]),
        ],
        {"image": ("float32", (None, 28, 28, 1))},
        {"probabilities": ("float32", (None, 10))},
        {"c1": weight(16, 1, 3, 3), "c2": weight(32, 16, 3, 3), "w1": weight(800, 100), "w2": weight(100, 10)},
    )


def cases(engine: Engine) -> list[Case]:
    """Both dialects on both models, at 1 and at 64."""
    infer = InferenceService(engine, ServerInfo()).methods()["/inference.GRPCInferenceService/ModelInfer"]
    predict = PredictionService(engine).methods()["/tensorflow.serving.PredictionService/Predict"]
    dialects: list[tuple[str, UnaryMethod, Callable[[str, str, np.ndarray], bytes]]] = [
        ("oip", infer, infer_request),  # type: ignore[list-item] # a method of either kind, by its name a unary one
        ("tfs", predict, predict_request),  # type: ignore[list-item] # as above
    ]
    models = [("mlp", "features", (1, 8)), ("cnn", "image", (1, 28, 28, 1))]
    rng = np.random.default_rng(1)
    return [
        Case(
            f"{dialect}-{model} x{concurrency}",
            method,
            [write(model, name, rng.random(shape, np.float32)) for _ in range(concurrency)],
            concurrency,
        )
        for dialect, method, write in dialects
        for model, name, shape in models
        for concurrency in (1, 64)
    ]


async def main(rounds: int, only: list[str], *, profile: bool) -> None:
    metrics = Metrics(gpus=False)
    with tempfile.TemporaryDirectory() as folder:
        testing.write_mlp(Path(folder) / "mlp" / "1")
        write_cnn(Path(folder) / "cnn" / "1")
        engine = Engine(
            EngineOptions(repository=Path(folder), poll_interval_s=0, intra_op_threads=1, inline_us=1e6),
            metrics=metrics,
        )
        await engine.start()
        chosen = [case for case in cases(engine) if not only or any(case.name.startswith(start) for start in only)]
        for case in chosen:
            await measure(case, metrics)  # warms up
            case.cpu_us.clear()
            case.wall_us.clear()
        profiler = cProfile.Profile()
        if profile:
            profiler.enable()
        for _ in range(rounds):
            for case in chosen:
                await measure(case, metrics)
        profiler.disable()
        await engine.stop()
    for case in chosen:
        cpu, wall = statistics.median(case.cpu_us), statistics.median(case.wall_us)
        sys.stdout.write(
            f"{case.name:12} {cpu:7.2f} us of CPU per request (least {min(case.cpu_us):.2f}); "
            f"{wall:8.1f} us for {case.concurrency}\n"
        )
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(40)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", type=int, nargs="?", default=20)
    parser.add_argument("--only", nargs="*", default=[], help="beginnings of the names of cases")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    uvloop.run(main(arguments.rounds, arguments.only, profile=arguments.profile))

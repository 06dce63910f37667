"""The official Python clients, as an application uses them: a deadline and a request id with every call.

    python official.py <host:port> <path> <file of the message> <concurrency> <seconds> <model> <models.json>

The path says which: tritonclient's asyncio clients for the Open Inference Protocol, tensorflow-serving-api's stub on grpc.aio
for TensorFlow Serving's. Up to four processes share the calls in flight, each with a connection of its own.
"""

import asyncio
import json
import multiprocessing
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np

from tests.load.bench.figures import percentile
from tests.load.bench.protocols import OIP_METHOD, TFS_METHOD

PROCESSES = 4
DEADLINE_S = 5.0
WARM_S = 0.3
START_S = 60.0
Call = Callable[[], Awaitable[object]]


def triton_grpc(address: str, model: str, tensor: dict[str, Any], rows: np.ndarray) -> Call:
    from tritonclient.grpc import InferInput
    from tritonclient.grpc.aio import InferenceServerClient

    client = InferenceServerClient(address)
    value = InferInput(tensor["name"], list(rows.shape), tensor["datatype"])
    value.set_data_from_numpy(rows)

    async def call() -> object:
        headers = {"x-request-id": uuid.uuid4().hex}
        return await client.infer(model, [value], headers=headers, client_timeout=DEADLINE_S)

    return call


def triton_http(address: str, model: str, tensor: dict[str, Any], rows: np.ndarray) -> Call:
    from tritonclient.http import InferInput
    from tritonclient.http.aio import InferenceServerClient

    client = InferenceServerClient(address)
    value = InferInput(tensor["name"], list(rows.shape), tensor["datatype"])
    value.set_data_from_numpy(rows)

    async def call() -> object:
        return await client.infer(model, [value], headers={"x-request-id": uuid.uuid4().hex})

    return call


def tensorflow_grpc(address: str, model: str, tensor: dict[str, Any], rows: np.ndarray) -> Call:
    import grpc.aio
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.inputs[tensor["name"]].CopyFrom(tf.make_tensor_proto(rows))
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.aio.insecure_channel(address))

    async def call() -> object:
        metadata = (("x-request-id", uuid.uuid4().hex),)
        return await stub.Predict(request, timeout=DEADLINE_S, metadata=metadata)

    return call


def opener(path: str) -> Callable[[str, str, dict[str, Any], np.ndarray], Call]:
    return {OIP_METHOD: triton_grpc, TFS_METHOD: tensorflow_grpc}.get(path, triton_http)


@dataclass
class Part:
    """What one process measured: milliseconds of the calls that ended in time, how many failed, how many ended at all."""

    times: list[float] = field(default_factory=list)
    errors: int = 0
    answered: int = 0
    seconds: float = 0.0


async def repeat(call: Call, calls: int, seconds: float) -> Part:
    part = Part()
    counting = stopped = False

    async def one_after_another() -> None:
        while not stopped:
            began = time.perf_counter()
            try:
                await call()
            except Exception:  # noqa: BLE001 - whatever the client raises is a failed request
                part.errors += counting
            else:
                part.answered += 1
                if counting:
                    part.times.append((time.perf_counter() - began) * 1000)

    async with asyncio.TaskGroup() as group:
        for _ in range(calls):
            group.create_task(one_after_another())
        await asyncio.sleep(WARM_S)
        counting, began = True, time.perf_counter()
        await asyncio.sleep(seconds)
        counting, stopped, part.seconds = False, True, time.perf_counter() - began
    return part


def work(arguments: Sequence[str], calls: int, ready: Barrier, out: Connection) -> None:
    """One process: begins when all have imported what they need."""
    address, path, _, _, seconds, model, description = arguments
    tensor = json.loads(Path(description).read_text())[model]["input"]

    async def main() -> Part:
        rows = np.ones((1, *tensor["shape"]), {"FP32": "f4", "INT32": "i4", "UINT8": "u1"}[tensor["datatype"]])
        call = opener(path)(address, model, tensor, rows)
        await asyncio.to_thread(ready.wait, START_S)
        return await repeat(call, calls, float(seconds))

    out.send(asyncio.run(main()))


def main(arguments: Sequence[str]) -> None:
    calls = int(arguments[3])
    shares = [calls // PROCESSES + (index < calls % PROCESSES) for index in range(min(PROCESSES, calls))]
    ready = multiprocessing.Barrier(len(shares))
    pipes, children = [], []
    for share in shares:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.Process(target=work, args=(arguments, share, ready, sender))
        child.start()
        sender.close()
        pipes.append(receiver)
        children.append(child)
    parts: list[Part] = [pipe.recv() for pipe in pipes]
    for child in children:
        child.join()
    times = sorted(value for part in parts for value in part.times)
    figures = {
        "requests": len(times),
        "seconds": sum(part.seconds for part in parts) / len(parts),
        "errors": sum(part.errors for part in parts),
        "p50_ms": percentile(times, 0.5),
        "p99_ms": percentile(times, 0.99),
        "answered": sum(part.answered for part in parts),
    }
    sys.stdout.write(f"FIGURES {json.dumps(figures)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])

"""The least a server on grpcio can do: `aio` batches per turn of the loop, `threads` runs each request by itself.

    BENCH_GRPC_PORT=9001 BENCH_MODELS=models.json python lean_grpc.py aio|threads|echo-aio|echo-threads

Messages are the Open Inference Protocol's, of the same generated kind as the official client's. The echoes answer the
request's bytes without looking at them.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

OPTIONS = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
THREADS = 8


class Batch:
    """The requests for a model that arrive in one turn of the loop, run together."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.waiting: list[tuple[Any, asyncio.Future[list[Any]]]] = []

    def submit(self, rows: Any) -> "asyncio.Future[list[Any]]":
        loop = asyncio.get_running_loop()
        if not self.waiting:
            loop.call_soon(self.run)
        future: asyncio.Future[list[Any]] = loop.create_future()
        self.waiting.append((rows, future))
        return future

    def run(self) -> None:
        import numpy as np

        waiting, self.waiting = self.waiting, []
        parts = [rows for rows, _ in waiting]
        results = self.model.run(parts[0] if len(parts) == 1 else np.concatenate(parts))
        first = 0
        for rows, future in waiting:
            last = first + len(rows)
            if not future.done():
                future.set_result([result[first:last] for result in results])
            first = last


class Codec:
    def __init__(self) -> None:
        import models_env
        import numpy as np
        from tritonclient.grpc import service_pb2

        self.numpy, self.messages = np, service_pb2
        self.models = models_env.models()

    def read(self, data: bytes) -> tuple[Any, Any]:
        request = self.messages.ModelInferRequest.FromString(data)
        model = self.models[request.model_name]
        rows = self.numpy.frombuffer(request.raw_input_contents[0], model.dtype).reshape(request.inputs[0].shape)
        return model, rows

    def write(self, model: Any, results: list[Any]) -> bytes:
        response = self.messages.ModelInferResponse(model_name=model.name, model_version="1")
        for (name, datatype), result in zip(model.outputs, results, strict=True):
            response.outputs.add(name=name, datatype=datatype).shape.extend(result.shape)
            response.raw_output_contents.append(result.tobytes())
        data: bytes = response.SerializeToString()
        return data


def handlers(infer: Callable[[bytes, Any], Any]) -> tuple[Any]:
    method = {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
    return (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", method),)


async def serve_aio(infer: Callable[[bytes, Any], Any], address: str) -> None:
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers(handlers(infer))
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


def serve_threads(infer: Callable[[bytes, Any], Any], address: str) -> None:
    server = grpc.server(ThreadPoolExecutor(THREADS), options=OPTIONS)
    server.add_generic_rpc_handlers(handlers(infer))
    server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


def main(kind: str) -> None:
    address = f"127.0.0.1:{os.environ['BENCH_GRPC_PORT']}"
    if kind == "echo-threads":
        serve_threads(lambda data, _: data, address)
    elif kind == "echo-aio":

        async def echo(data: bytes, _: object) -> bytes:
            return data

        asyncio.run(serve_aio(echo, address))
    else:
        codec = Codec()
        if kind == "threads":

            def infer(data: bytes, _: object) -> bytes:
                model, rows = codec.read(data)
                return codec.write(model, model.run(rows))

            serve_threads(infer, address)
        else:
            batches = {name: Batch(model) for name, model in codec.models.items()}

            async def infer_in_batch(data: bytes, _: object) -> bytes:
                model, rows = codec.read(data)
                return codec.write(model, await batches[model.name].submit(rows))

            asyncio.run(serve_aio(infer_in_batch, address))


if __name__ == "__main__":
    main(sys.argv[1])

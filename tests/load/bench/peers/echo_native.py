"""A bare gRPC echo on cornet's own transport: what a request costs before anything looks at it.

BENCH_GRPC_PORT=9001 python echo_native.py
"""

import asyncio
import os

import uvloop

from services.frontends.grpc.call import Call, UnaryMethod
from services.frontends.grpc.http2.server import NativeServer

METHOD = "/inference.GRPCInferenceService/ModelInfer"


def echo(data: bytes, call: Call) -> None:
    call.reply(data)


async def main() -> None:
    server = NativeServer({METHOD: UnaryMethod("echo", "Echo", echo)}, "127.0.0.1", int(os.environ["BENCH_GRPC_PORT"]))
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())

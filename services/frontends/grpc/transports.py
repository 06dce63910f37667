"""The transports that can carry the method table, and the choice of one."""

from collections.abc import Callable
from time import monotonic
from typing import Literal, Protocol, Self, TypeAlias

from services.frontends.grpc.call import MethodTable
from services.frontends.grpc.options import GrpcOptions
from services.telemetry.metrics import Metrics

TransportName: TypeAlias = Literal["native", "grpcio"]


class GrpcTransport(Protocol):
    """A port that serves a method table; see `GrpcServer` for what `start` and `stop` promise."""

    async def start(self) -> int: ...

    async def stop(self, grace_s: float) -> None: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...


def make_transport(
    name: TransportName,
    methods: MethodTable,
    host: str,
    port: int,
    *,
    options: GrpcOptions | None = None,
    metrics: Metrics | None = None,
    clock: Callable[[], float] = monotonic,
) -> GrpcTransport:
    """`native`, on asyncio alone, or `grpcio`, the reference. Only the one that is asked for is imported."""
    if name == "native":
        from services.frontends.grpc.http2.server import NativeServer

        return NativeServer(methods, host, port, options=options, metrics=metrics, clock=clock)
    from services.frontends.grpc.server import GrpcServer

    return GrpcServer(methods, host, port, options=options, metrics=metrics, clock=clock)

"""Server reflection (v1 and v1alpha), so that grpcurl and its like can call every method without a .proto file.

The messages of both versions are the same on the wire; only the package's name differs.
"""

from collections.abc import AsyncIterator, Collection
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio

from services.errors import InvalidArgument
from services.frontends.grpc.call import MethodTable, StreamContext, StreamMethod
from services.protocols.messages import FILES

SERVICE = "grpc.reflection.v1.ServerReflection"
SERVICE_ALPHA = "grpc.reflection.v1alpha.ServerReflection"
PROTOCOL = "grpc-reflection"


class ReflectionService:
    """Describes `services` (full names) and itself."""

    def __init__(self, services: Collection[str]) -> None:
        self._servicer = aio.ReflectionServicer((*services, SERVICE, SERVICE_ALPHA), pool=_Symbols(_pool()))

    def methods(self) -> MethodTable:
        method = StreamMethod(PROTOCOL, "ServerReflectionInfo", self.info)
        return {f"/{service}/ServerReflectionInfo": method for service in (SERVICE, SERVICE_ALPHA)}

    async def info(self, requests: AsyncIterator[bytes], context: StreamContext) -> AsyncIterator[bytes]:  # noqa: ARG002 - the handlers' common form
        async for response in self._servicer.ServerReflectionInfo(_parsed(requests), None):
            yield response.SerializeToString()


class _Symbols:
    """A pool that also finds `<package>.<service>.<method>`, as reflection promises; protobuf's knows no methods."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802 - protobuf's name
        """The file that declares it. Raises KeyError."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service_name, _, method = symbol.rpartition(".")
            service = self._pool.FindServiceByName(service_name)
            if method not in service.methods_by_name:
                raise
            return service.file


async def _parsed(requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for data in requests:
        try:
            yield reflection_pb2.ServerReflectionRequest.FromString(data)
        except DecodeError:
            raise InvalidArgument("Could not parse ServerReflectionRequest.") from None


def _pool() -> Any:
    """A pool with every file that is served: our own, health, and both versions of reflection."""
    alpha = reflection_pb2.DESCRIPTOR.serialized_pb
    pool = descriptor_pool.DescriptorPool()
    for file in (*FILES, health_pb2.DESCRIPTOR.serialized_pb, alpha, _stable_version(alpha)):
        pool.AddSerializedFile(file)
    return pool


def _stable_version(alpha: bytes) -> bytes:
    """The v1alpha file under the names of v1."""
    file = descriptor_pb2.FileDescriptorProto.FromString(alpha)
    old, new = f".{file.package}.", ".grpc.reflection.v1."
    file.package = new.strip(".")
    file.name = "grpc/reflection/v1/reflection.proto"
    for message in file.message_type:
        for field in message.field:
            if field.HasField("type_name"):
                field.type_name = field.type_name.replace(old, new)
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(old, new)
        method.output_type = method.output_type.replace(old, new)
    data: bytes = file.SerializeToString()
    return data

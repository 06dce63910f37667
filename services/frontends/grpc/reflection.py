"""Server reflection (v1 and v1alpha), so that grpcurl and its like can call every method without a .proto file.

The messages of both versions are the same on the wire; only the package's name differs.
"""

from collections.abc import AsyncIterator, Collection
from functools import cache
from typing import Any

from services.errors import INVALID_ARGUMENT, NOT_FOUND
from services.frontends.grpc.call import MethodTable, StreamContext, StreamMethod
from services.protocols.messages import FILES, ServerReflectionRequest, ServerReflectionResponse, parse

SERVICE = "grpc.reflection.v1.ServerReflection"
SERVICE_ALPHA = "grpc.reflection.v1alpha.ServerReflection"
PROTOCOL = "grpc-reflection"


class ReflectionService:
    """Describes `services` (full names) and itself."""

    def __init__(self, services: Collection[str]) -> None:
        self._services = tuple(sorted((*services, SERVICE, SERVICE_ALPHA)))

    def methods(self) -> MethodTable:
        method = StreamMethod(PROTOCOL, "ServerReflectionInfo", self.info)
        return {f"/{service}/ServerReflectionInfo": method for service in (SERVICE, SERVICE_ALPHA)}

    async def info(self, requests: AsyncIterator[bytes], context: StreamContext) -> AsyncIterator[bytes]:  # noqa: ARG002 - the handlers' common form
        async for data in requests:
            request = parse(ServerReflectionRequest, data, "ServerReflectionRequest")
            answer = {"valid_host": request.host, "original_request": request, **self._answer(request)}
            yield ServerReflectionResponse(**answer).SerializeToString()

    def _answer(self, request: Any) -> dict[str, Any]:
        """The one field of the response that answers the one of the request."""
        asked = request.WhichOneof("message_request")
        try:
            match asked:
                case "list_services":
                    return {"list_services_response": {"service": [{"name": name} for name in self._services]}}
                case "file_by_filename":
                    return _files(_pool().FindFileByName(request.file_by_filename))
                case "file_containing_symbol":
                    return _files(_file_with(request.file_containing_symbol))
                case "file_containing_extension":
                    wanted = request.file_containing_extension
                    extended = _pool().FindMessageTypeByName(wanted.containing_type)
                    return _files(_pool().FindExtensionByNumber(extended, wanted.extension_number).file)
                case "all_extension_numbers_of_type":
                    extended = _pool().FindMessageTypeByName(request.all_extension_numbers_of_type)
                    numbers = sorted(extension.number for extension in _pool().FindAllExtensions(extended))
                    found = {"base_type_name": extended.full_name, "extension_number": numbers}
                    return {"all_extension_numbers_response": found}
        except KeyError:
            return _error(NOT_FOUND, f"Expected {asked} of something that this server describes.")
        return _error(INVALID_ARGUMENT, "Expected one of the fields of message_request. Received: none.")


def _error(code: int, message: str) -> dict[str, Any]:
    return {"error_response": {"error_code": code, "error_message": message}}


def _files(file: Any) -> dict[str, Any]:
    """The file, and all that it imports."""
    found = {file.name: file}
    waiting = [file]
    while waiting:
        for imported in waiting.pop().dependencies:
            if imported.name not in found:
                found[imported.name] = imported
                waiting.append(imported)
    return {"file_descriptor_response": {"file_descriptor_proto": [one.serialized_pb for one in found.values()]}}


def _file_with(symbol: str) -> Any:
    """The file that declares it; `<package>.<service>.<method>` too, which protobuf's pool does not know. Raises KeyError."""
    try:
        return _pool().FindFileContainingSymbol(symbol)
    except KeyError:
        service_name, _, method = symbol.rpartition(".")
        service = _pool().FindServiceByName(service_name)
        if method not in service.methods_by_name:
            raise
        return service.file


@cache
def _pool() -> Any:
    """A pool with every file that is served, and the older version of reflection, made when it is first asked."""
    from google.protobuf import descriptor_pool

    pool = descriptor_pool.DescriptorPool()
    for file in (*FILES, _alpha_version(FILES)):
        pool.AddSerializedFile(file)
    return pool


def _alpha_version(files: Collection[bytes]) -> bytes:
    """The file of v1 under the names of v1alpha."""
    from google.protobuf import descriptor_pb2

    parsed = (descriptor_pb2.FileDescriptorProto.FromString(data) for data in files)
    file = next(file for file in parsed if file.package == "grpc.reflection.v1")
    old, new = f".{file.package}.", ".grpc.reflection.v1alpha."
    file.package = new.strip(".")
    file.name = "grpc/reflection/v1alpha/reflection.proto"
    for message in file.message_type:
        for field in message.field:
            if field.HasField("type_name"):
                field.type_name = field.type_name.replace(old, new)
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(old, new)
        method.output_type = method.output_type.replace(old, new)
    data: bytes = file.SerializeToString()
    return data

"""Our .proto files against the official ones, by full name: what is declared must be the same on the wire.

The official clients' own modules hold the official descriptors; importing them beside ours also shows that one process can.
"""

from collections.abc import Iterator

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2  # noqa: F401 - fills the default pool
from grpc_reflection.v1alpha import reflection_pb2  # noqa: F401 - fills the default pool
from tensorflow.core.protobuf import meta_graph_pb2  # noqa: F401 - fills the default pool
from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2  # noqa: F401 - fill the default pool
from tensorflow_serving.config import model_server_config_pb2  # noqa: F401 - fills the default pool
from tritonclient.grpc import service_pb2  # noqa: F401 - fills the default pool

from services.protocols.messages import FILES, POOL

OFFICIAL = descriptor_pool.Default()

NO_OFFICIAL_DESCRIPTOR = {"tensorflow.serving.BatchingParameters", "inference.ModelMetadataResponse.ParametersEntry"}
"""The first is read as text from a file and never on the wire, the second is the map of MLServer's field below; no installed
package has their descriptors.
"""

FROM_ELSEWHERE = {"inference.ModelMetadataResponse.parameters"}
"""Fields of other servers of the protocol (MLServer's), of which tritonclient has no descriptor."""


def _official(name: str) -> str:
    """The name it has in the official packages: of reflection they hold v1alpha, which has v1's messages."""
    return name.replace("grpc.reflection.v1.", "grpc.reflection.v1alpha.")


def _messages(messages, prefix: str) -> Iterator[str]:
    for message in messages:
        name = f"{prefix}.{message.name}"
        if name not in NO_OFFICIAL_DESCRIPTOR:
            yield name
        yield from _messages(message.nested_type, name)


def _names() -> tuple[list[str], list[str], list[str]]:
    messages, enums, services = [], [], []
    for data in FILES:
        file = descriptor_pb2.FileDescriptorProto.FromString(data)
        messages += _messages(file.message_type, file.package)
        enums += [f"{file.package}.{enum.name}" for enum in file.enum_type]
        enums += [f"{file.package}.{m.name}.{enum.name}" for m in file.message_type for enum in m.enum_type]
        services += [f"{file.package}.{service.name}" for service in file.service]
    return messages, enums, services


MESSAGES, ENUMS, SERVICES = _names()


def _field(field) -> dict[str, object]:
    described = field.message_type or field.enum_type
    return {
        "number": field.number,
        "type": field.type,
        "of": _official(described.full_name) if described else None,
        "repeated": field.is_repeated,
        "packed": field.is_packed,
        "oneof": field.containing_oneof.name if field.containing_oneof else None,
        "presence": field.has_presence,
    }


@pytest.mark.parametrize("name", MESSAGES)
def test_every_field_is_the_official_one(name: str) -> None:
    ours, official = POOL.FindMessageTypeByName(name), OFFICIAL.FindMessageTypeByName(_official(name))
    assert ours.GetOptions().map_entry == official.GetOptions().map_entry
    for field in ours.fields:
        if field.full_name in FROM_ELSEWHERE:
            continue
        assert _field(field) == _field(official.fields_by_name[field.name]), field.full_name


@pytest.mark.parametrize("name", ENUMS)
def test_every_enum_value_is_the_official_one(name: str) -> None:
    ours, official = POOL.FindEnumTypeByName(name), OFFICIAL.FindEnumTypeByName(_official(name))
    for value in ours.values:
        assert official.values_by_name[value.name].number == value.number


@pytest.mark.parametrize("name", SERVICES)
def test_every_method_is_the_official_one(name: str) -> None:
    ours, official = POOL.FindServiceByName(name), OFFICIAL.FindServiceByName(_official(name))
    for method in ours.methods:
        theirs = official.methods_by_name[method.name]
        assert _official(method.input_type.full_name) == theirs.input_type.full_name
        assert _official(method.output_type.full_name) == theirs.output_type.full_name
        assert (method.client_streaming, method.server_streaming) == (theirs.client_streaming, theirs.server_streaming)

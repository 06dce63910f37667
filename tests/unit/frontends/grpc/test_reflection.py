"""Reflection's answers, and that health's and reflection's messages are the official ones on the wire."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from services.errors import INVALID_ARGUMENT, NOT_FOUND, InvalidArgument
from services.frontends.grpc.reflection import ReflectionService
from services.protocols.messages import POOL


def _ask(**question: Any) -> Any:
    data = reflection_pb2.ServerReflectionRequest(**question).SerializeToString()
    return reflection_pb2.ServerReflectionResponse.FromString(asyncio.run(_answer(data)))


async def _answer(data: bytes) -> bytes:
    async def requests() -> AsyncIterator[bytes]:
        yield data

    (answer,) = [one async for one in ReflectionService(["inference.GRPCInferenceService"]).info(requests(), None)]
    return answer


def _shape(message: Any) -> dict[int, tuple[Any, ...]]:
    return {
        field.number: (
            field.name,
            field.type,
            field.is_repeated,
            field.message_type.name if field.message_type else None,
            {value.name: value.number for value in field.enum_type.values} if field.enum_type else None,
            field.containing_oneof.name if field.containing_oneof else None,
        )
        for field in message.fields
    }


@pytest.mark.parametrize(
    ("official", "package"), [(health_pb2, "grpc.health.v1"), (reflection_pb2, "grpc.reflection.v1")]
)
def test_every_message_has_the_official_fields(official: Any, package: str) -> None:
    ours = POOL.FindFileByName(f"{package.replace('.', '/')}/{package.split('.')[1]}.proto").message_types_by_name
    served = {
        name: message for name, message in official.DESCRIPTOR.message_types_by_name.items() if "List" not in name
    }

    assert set(served) <= set(ours)
    for name, message in ours.items():
        assert _shape(message) == _shape(official.DESCRIPTOR.message_types_by_name[name])


def test_an_answer_repeats_the_question() -> None:
    answer = _ask(host="here", list_services="*")

    assert (answer.valid_host, answer.original_request.list_services) == ("here", "*")
    assert [service.name for service in answer.list_services_response.service] == [
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
    ]


@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("grpc.reflection.v1alpha.ServerReflection", "grpc/reflection/v1alpha/reflection.proto"),
        ("grpc.health.v1.Health.Check", "grpc/health/v1/health.proto"),
        ("grpc.health.v1.HealthCheckRequest", "grpc/health/v1/health.proto"),
    ],
)
def test_a_symbol_is_answered_with_the_file_that_declares_it(symbol: str, file: str) -> None:
    (data,) = _ask(file_containing_symbol=symbol).file_descriptor_response.file_descriptor_proto

    assert FileDescriptorProto.FromString(data).name == file


def test_a_file_comes_with_all_that_it_imports() -> None:
    answer = _ask(file_by_filename="tensorflow_serving/services.proto").file_descriptor_response
    files = [FileDescriptorProto.FromString(data) for data in answer.file_descriptor_proto]

    assert files[0].name == "tensorflow_serving/services.proto"
    assert {name for file in files for name in file.dependency} < {file.name for file in files}


def test_a_message_without_extensions_has_no_numbers_of_them() -> None:
    answer = _ask(all_extension_numbers_of_type="grpc.health.v1.HealthCheckRequest").all_extension_numbers_response

    assert (answer.base_type_name, list(answer.extension_number)) == ("grpc.health.v1.HealthCheckRequest", [])


@pytest.mark.parametrize(
    "question",
    [
        {"file_by_filename": "nope.proto"},
        {"file_containing_symbol": "nope"},
        {"file_containing_symbol": "grpc.health.v1.Health.Nope"},
        {"file_containing_extension": {"containing_type": "grpc.health.v1.HealthCheckRequest", "extension_number": 9}},
        {"file_containing_extension": {"containing_type": "nope", "extension_number": 9}},
        {"all_extension_numbers_of_type": "nope"},
    ],
)
def test_what_is_not_described_is_not_found(question: dict[str, Any]) -> None:
    assert _ask(**question).error_response.error_code == NOT_FOUND


def test_a_request_without_a_question_is_answered_with_an_error() -> None:
    assert _ask(host="here").error_response.error_code == INVALID_ARGUMENT


def test_bytes_that_are_no_request_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="Could not parse ServerReflectionRequest"):
        asyncio.run(_answer(b"\xff\xff"))

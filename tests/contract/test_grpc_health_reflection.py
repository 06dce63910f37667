"""Health and reflection, called with the official packages' clients; and what the transport itself answers."""

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from services.launch import ServerProcess

TIMEOUT_S = 30
SERVING = health_pb2.HealthCheckResponse.SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
SERVICES = {
    "tensorflow.serving.PredictionService",
    "tensorflow.serving.ModelService",
    "inference.GRPCInferenceService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}


@pytest.fixture(scope="module")
def channel(grpc_server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(grpc_server.grpc_address) as channel:
        yield channel


@pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService", "grpc.health.v1.Health", "mlp"])
def test_the_server_its_services_and_its_models_are_serving(channel, service: str) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest(service=service), TIMEOUT_S).status == SERVING


def test_the_health_of_an_unknown_service_is_not_found(channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="nope"), TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(("service", "status"), [("", SERVING), ("nope", SERVICE_UNKNOWN)])
def test_watching_tells_the_state_at_once(channel, service: str, status: int) -> None:
    call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service), TIMEOUT_S)
    assert next(call).status == status
    call.cancel()


def test_reflection_lists_every_service(channel) -> None:
    assert set(ProtoReflectionDescriptorDatabase(channel).get_services()) == SERVICES


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_reflection_describes_every_service(channel, service: str) -> None:
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    for method in pool.FindServiceByName(service).methods:
        assert method.input_type.full_name
        assert method.output_type.full_name


def test_reflection_finds_a_method_by_its_name(channel) -> None:
    file = ProtoReflectionDescriptorDatabase(channel).FindFileContainingSymbol(
        "tensorflow.serving.PredictionService.Predict"
    )
    assert "PredictionService" in [service.name for service in file.service]
    with pytest.raises(KeyError):
        ProtoReflectionDescriptorDatabase(channel).FindFileContainingSymbol(
            "tensorflow.serving.PredictionService.Guess"
        )


def test_an_unknown_method_is_unimplemented(channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/tensorflow.serving.PredictionService/Classify")(b"", timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    "method",
    [
        "tensorflow.serving.PredictionService/Predict",
        "tensorflow.serving.PredictionService/GetModelMetadata",
        "tensorflow.serving.ModelService/GetModelStatus",
        "inference.GRPCInferenceService/ModelInfer",
        "inference.GRPCInferenceService/ModelMetadata",
        "inference.GRPCInferenceService/ModelReady",
        "grpc.health.v1.Health/Check",
    ],
)
def test_bytes_that_are_no_message_are_an_invalid_argument(channel, method: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{method}")(b"\xff\xff\xff", timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "Could not parse" in caught.value.details()

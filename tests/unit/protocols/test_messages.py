"""The private pool: what is in it, and that nothing of it reaches protobuf's default pool."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from services.errors import InvalidArgument
from services.protocols import messages


def test_the_default_pool_stays_free_for_the_official_clients() -> None:
    default = descriptor_pool.Default()
    with pytest.raises(KeyError):
        default.FindFileByName("tensorflow/tensor.proto")


def test_files_come_after_the_files_they_import() -> None:
    seen: set[str] = set()
    for data in messages.FILES:
        file = descriptor_pb2.FileDescriptorProto.FromString(data)
        assert set(file.dependency) <= seen
        seen.add(file.name)


@pytest.mark.parametrize(
    ("service", "methods"),
    [
        ("tensorflow.serving.PredictionService", ["Predict", "GetModelMetadata"]),
        ("tensorflow.serving.ModelService", ["GetModelStatus"]),
        (
            "inference.GRPCInferenceService",
            [
                *("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"),
                *("ModelConfig", "ModelStatistics"),
            ],
        ),
    ],
)
def test_services_declare_what_is_served(service: str, methods: list[str]) -> None:
    assert [method.name for method in messages.POOL.FindServiceByName(service).methods] == methods


def test_bytes_that_are_no_message_are_refused_by_its_name() -> None:
    with pytest.raises(InvalidArgument, match="Could not parse PredictRequest"):
        messages.parse(messages.PredictRequest, b"\xff\xff", "PredictRequest")


def test_the_committed_descriptor_set_is_what_the_proto_files_compile_to(project: Path) -> None:
    command = [sys.executable, project / "protos" / "compile.py", "--check"]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr

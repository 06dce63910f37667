import pytest

from services.protocols.model_configuration import describe
from services.tensors import BY_NAME, Signature, TensorSpec

FLOAT = BY_NAME["float32"]
SIGNATURE = Signature((TensorSpec("x", FLOAT, (-1, 2)),), (TensorSpec("y", FLOAT, (-1, 1)),))


@pytest.mark.parametrize(
    ("provider", "kind"),
    [
        ("CPUExecutionProvider", "KIND_CPU"),
        ("CPU", "KIND_CPU"),
        ("CUDAExecutionProvider", "KIND_GPU"),
        ("TensorrtExecutionProvider", "KIND_GPU"),
        ("GPU", "KIND_GPU"),
    ],
)
def test_a_model_is_said_to_be_where_it_really_runs(provider, kind):
    config = describe("m", "onnxruntime_onnx", SIGNATURE, 64, 0, provider=provider, runs=2)
    assert config["instance_group"] == [{"name": provider, "kind": kind, "count": 2}]

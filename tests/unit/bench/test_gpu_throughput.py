import math

import numpy as np
import pytest

from services import testing
from services.tensors import BY_NAME, TensorSpec
from tests.load import gpu_throughput as gpu

CPU = "CPUExecutionProvider"


def test_vgg16_s_operations_are_those_of_its_paper():
    """15.3 thousand million multiplications in the convolutions at 224 x 224, and as many additions."""
    assert gpu.vgg16_operations() == 30_693_261_312


def test_operations_grow_with_the_picture():
    assert gpu.vgg16_operations(448, 448) == 4 * gpu.vgg16_operations(224, 224)


def test_a_percentile_is_one_of_the_values():
    values = [5.0, 1.0, 3.0, 2.0, 4.0]
    assert [gpu.percentile(values, share) for share in (0, 0.5, 0.99, 1)] == [1, 3, 5, 5]
    assert math.isnan(gpu.percentile([], 0.5))


def test_a_table_is_markdown():
    assert gpu.table(("model", "rows/s"), [("cnn", "12")]) == "| model | rows/s |\n| --- | ---: |\n| cnn | 12 |\n"


@pytest.mark.parametrize(
    ("value", "text"), [(12345.6, "12,346"), (99.94, "99.9"), (0.01234, "0.0123"), (math.nan, "-")]
)
def test_numbers_have_three_figures_that_count(value, text):
    assert gpu.number(value) == text


def test_clients_add_up_each_over_its_own_time():
    seen = gpu.summarise([([0.1, 0.2, -0.3], 2.0), ([0.4], 1.0)], rows=8)
    assert seen == gpu.Served(rows_per_s=16.0, p50_ms=200.0, p99_ms=400.0, errors=1)


def test_clients_without_an_answer_are_no_error():
    seen = gpu.summarise([([-0.1], 1.0)], rows=1)
    assert (seen.rows_per_s, seen.errors, math.isnan(seen.p50_ms)) == (0.0, 1, True)


def test_every_model_is_filled_with_what_it_takes():
    assert gpu.fill(TensorSpec("x", BY_NAME["float16"], (-1, 3)), 5).shape == (5, 3)
    tokens = gpu.fill(TensorSpec("t", BY_NAME["int32"], (-1, -1)), 2)
    assert (tokens.shape, tokens.dtype, tokens.min() > 0) == ((2, 32), np.dtype(np.int32), True)


def test_variants_are_the_newest_versions_of_a_name(tmp_path):
    for version in ("vgg16/1", "vgg16/10", "vgg16/9", "vgg16-fp16/2", "vgg160/1", "vgg16-empty"):
        (tmp_path / version).mkdir(parents=True)
        (tmp_path / version / "model.onnx").touch()
    (tmp_path / "vgg16" / "11").mkdir()  # half a version
    found = gpu.variants(tmp_path, "vgg16")
    assert found == {"vgg16": tmp_path / "vgg16" / "10", "vgg16-fp16": tmp_path / "vgg16-fp16" / "2"}


def test_a_binary_request_says_how_long_its_head_is():
    path, body, headers = gpu.binary_request("vgg16", 2)
    length = int(headers["Inference-Header-Content-Length"])
    assert path == "/v2/models/vgg16/infer"
    assert body[:length].endswith(b"}")
    assert len(body) - length == 2 * 224 * 224 * 3


def test_a_typed_request_is_one_picture():
    path, body, headers = gpu.typed_request("vgg16-fp16")
    assert (path, headers["Content-Type"], body[:2]) == (
        "/extract_features?model=vgg16-fp16",
        "image/jpeg",
        b"\xff\xd8",
    )


def test_the_matrix_rate_is_more_than_nothing(tmp_path):
    assert gpu.matrix_rate(CPU, 16, 0.0, tmp_path) > 0


def test_a_model_is_measured_as_it_is_served(tmp_path):
    testing.write_mlp(tmp_path / "1")
    speed = gpu.in_process(tmp_path / "1", CPU, 4, 0.0)
    assert min(speed.batch_ms, speed.one_per_s, speed.two_per_s) > 0


def test_without_a_gpu_it_says_so_and_succeeds(monkeypatch, capsys):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CPU])
    assert gpu.main([]) == 0
    said = capsys.readouterr().out
    assert said.startswith("not measured: ")
    assert "has no CUDAExecutionProvider" in said

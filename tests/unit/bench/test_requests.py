"""The models, the requests made of them, and what counts as a right answer."""

import json
from pathlib import Path

import numpy as np
import pytest

from services.protocols import messages
from tests.load.bench.models import Model, read_models, write_peers_models
from tests.load.bench.protocols import OIP_GRPC, TFS_GRPC, TFS_REST, V2_BINARY, V2_JSON, build, problem
from tests.load.bench.servers import triton_config


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    root: Path = tmp_path_factory.mktemp("models")
    write_peers_models(root, ["mlp"])
    return read_models(root, ["mlp"])["mlp"]


@pytest.mark.parametrize("name", ["mlp", "cnn", "lstm", "transformer"])
def test_the_models_take_and_give_any_number_of_rows(name: str, tmp_path: Path) -> None:
    write_peers_models(tmp_path, [name])
    model = read_models(tmp_path, [name])[name]
    answer = model.expected(model.rows(3))["y"]
    assert answer.shape == (3, *model.outputs[0].shape)
    assert np.isfinite(answer).all()
    assert len(np.unique(answer[:, 0])) == 3


def answers(model: Model, values: np.ndarray) -> dict[str, bytes]:
    """How a server says `values` in each protocol."""
    infer = messages.ModelInferResponse(model_name="mlp", raw_output_contents=[values.tobytes()])
    infer.outputs.add(name="y", datatype="FP32", shape=values.shape)
    predict = messages.PredictResponse()
    predict.outputs["y"].dtype = 1
    predict.outputs["y"].float_val.extend(values.ravel().tolist())
    output = {"name": "y", "datatype": "FP32", "shape": list(values.shape)}
    header = json.dumps({"outputs": [output | {"parameters": {"binary_data_size": values.nbytes}}]}).encode()
    return {
        OIP_GRPC: infer.SerializeToString(),
        TFS_GRPC: predict.SerializeToString(),
        V2_JSON: json.dumps({"outputs": [output | {"data": values.ravel().tolist()}]}).encode(),
        V2_BINARY: header + values.tobytes(),
        TFS_REST: json.dumps({"predictions": values.tolist()}).encode(),
    }


@pytest.mark.parametrize("protocol", [OIP_GRPC, TFS_GRPC, V2_JSON, V2_BINARY, TFS_REST])
def test_the_right_numbers_are_right_in_every_protocol_and_others_are_not(protocol: str, model: Model) -> None:
    rows = model.rows(2)
    expected = model.expected(rows)
    request = build(protocol, model, rows)
    assert problem(request, model, answers(model, expected["y"])[protocol], expected) is None
    assert "expected" in str(problem(request, model, answers(model, expected["y"] + 1)[protocol], expected))


@pytest.mark.parametrize("protocol", [OIP_GRPC, TFS_GRPC, V2_JSON, V2_BINARY, TFS_REST])
def test_an_answer_that_is_none_is_a_problem(protocol: str, model: Model) -> None:
    assert problem(build(protocol, model, model.rows()), model, b"{}", model.expected(model.rows())) is not None


def test_tritons_configuration_names_the_tensors_without_the_batch(model: Model) -> None:
    config = triton_config(model)
    assert 'input [ { name: "x" data_type: TYPE_FP32 dims: [ 8 ] } ]' in config
    assert 'output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]' in config
    assert str(model.path) in config

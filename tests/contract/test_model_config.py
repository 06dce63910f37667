"""Triton's model configuration, read by its own clients over both transports."""

from typing import Any

import pytest
import tritonclient.grpc
import tritonclient.http

from services.launch import ServerProcess


@pytest.fixture(scope="module")
def server(grpc_server: ServerProcess) -> ServerProcess:
    """Over both gRPC transports."""
    return grpc_server


def over_grpc(server: ServerProcess, model: str, version: str = "") -> dict[str, Any]:
    with tritonclient.grpc.InferenceServerClient(server.grpc_address) as client:
        return client.get_model_config(model, version, as_json=True)["config"]


def over_http(server: ServerProcess, model: str, version: str = "") -> dict[str, Any]:
    with tritonclient.http.InferenceServerClient(server.http_url.removeprefix("http://")) as client:
        return client.get_model_config(model, version)


@pytest.mark.parametrize("ask", [over_grpc, over_http])
def test_a_batchable_model_says_its_largest_batch_and_leaves_the_batch_axis_out(server: ServerProcess, ask) -> None:
    config = ask(server, "mlp")

    assert (config["name"], config["platform"], config["backend"]) == ("mlp", "onnxruntime_onnx", "onnxruntime")
    assert config["max_batch_size"] == 64
    assert [tensor["data_type"] for tensor in config["input"]] == ["TYPE_FP32"]
    assert [int(size) for size in config["input"][0]["dims"]] == [8]
    assert "dynamic_batching" in config


@pytest.mark.parametrize("ask", [over_grpc, over_http])
def test_a_model_that_is_not_batched_has_whole_shapes(server: ServerProcess, ask) -> None:
    config = ask(server, "not_batchable", "1")

    assert config.get("max_batch_size", 0) == 0
    assert [int(size) for size in config["input"][0]["dims"]] == [2, 2]
    assert "dynamic_batching" not in config


def test_every_element_type_has_tritons_name(server: ServerProcess) -> None:
    kinds = {
        name: over_grpc(server, f"identity_{name}")["input"][0]["data_type"] for name in ("string", "float16", "bool")
    }

    assert kinds == {"string": "TYPE_STRING", "float16": "TYPE_FP16", "bool": "TYPE_BOOL"}


@pytest.mark.parametrize("ask", [over_grpc, over_http])
def test_an_unknown_model_is_an_error(server: ServerProcess, ask) -> None:
    with pytest.raises(Exception, match="Servable not found"):
        ask(server, "absent")


@pytest.mark.parametrize("ask", [over_grpc, over_http])
def test_the_provider_that_really_runs_the_model_is_named(server: ServerProcess, ask) -> None:
    [group] = ask(server, "mlp")["instance_group"]

    assert (group["name"], group["kind"], group["count"]) == ("CPUExecutionProvider", "KIND_CPU", 1)

"""Triton's statistics, read by its own clients over both transports."""

import time
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from services.launch import ServerProcess

PHASES = ("queue", "compute_input", "compute_infer", "compute_output")


@pytest.fixture(scope="module")
def server(grpc_server: ServerProcess) -> ServerProcess:
    """Over both gRPC transports."""
    return grpc_server


def over_grpc(server: ServerProcess, model: str = "", version: str = "") -> list[dict[str, Any]]:
    with tritonclient.grpc.InferenceServerClient(server.grpc_address) as client:
        return client.get_inference_statistics(model, version, as_json=True)["model_stats"]


def over_http(server: ServerProcess, model: str = "", version: str = "") -> list[dict[str, Any]]:
    with tritonclient.http.InferenceServerClient(server.http_url.removeprefix("http://")) as client:
        return client.get_inference_statistics(model, version)["model_stats"]


both = pytest.mark.parametrize("ask", [over_grpc, over_http])


def infer(server: ServerProcess, model: str, rows: int, columns: int = 8, version: str = "") -> None:
    with tritonclient.grpc.InferenceServerClient(server.grpc_address) as client:
        name = client.get_model_metadata(model, version).inputs[0].name
        values = tritonclient.grpc.InferInput(name, [rows, columns], "FP32")
        values.set_data_from_numpy(np.ones((rows, columns), np.float32))
        client.infer(model, [values], version)


def counted(stats: dict[str, Any], *path: str) -> tuple[int, int]:
    """Count and nanoseconds; protobuf's JSON leaves zeros out and writes uint64 as text."""
    for name in path:
        stats = stats.get(name, {})
    return int(stats.get("count", 0)), int(stats.get("ns", 0))


def number(stats: dict[str, Any], name: str) -> int:
    return int(stats.get(name, 0))


@both
def test_an_inference_counts_its_rows_its_run_and_its_phases(server: ServerProcess, ask) -> None:
    began_ms = time.time() * 1e3
    (before,) = ask(server, "mlp")

    infer(server, "mlp", rows=3)

    (after,) = ask(server, "mlp")
    assert (after["name"], after["version"]) == ("mlp", "1")
    assert number(after, "inference_count") - number(before, "inference_count") == 3
    assert number(after, "execution_count") - number(before, "execution_count") == 1
    assert began_ms - 1000 < number(after, "last_inference") < time.time() * 1e3 + 1000
    success, earlier = (counted(stats, "inference_stats", "success") for stats in (after, before))
    assert success[0] - earlier[0] == 1
    spent = 0
    for phase in PHASES:
        count, ns = counted(after, "inference_stats", phase)
        count_before, ns_before = counted(before, "inference_stats", phase)
        assert count - count_before == 1, phase
        spent += ns - ns_before
    assert 0 < spent <= success[1] - earlier[1]


@both
def test_runs_are_told_apart_by_their_rows(server: ServerProcess, ask) -> None:
    def runs(rows: int) -> tuple[int, int]:
        batches = ask(server, "mlp")[0].get("batch_stats", [])
        return next((counted(batch, "compute_infer") for batch in batches if int(batch["batch_size"]) == rows), (0, 0))

    before = runs(5)

    infer(server, "mlp", rows=5)

    after = runs(5)
    assert after[0] - before[0] == 1
    assert after[1] > before[1]


@both
def test_a_request_that_fails_counts_as_failed_alone(server: ServerProcess, ask) -> None:
    (before,) = ask(server, "half_plus_two")

    with pytest.raises(Exception, match="Expected"):
        infer(server, "half_plus_two", rows=2, columns=99)

    (after,) = ask(server, "half_plus_two")
    assert counted(after, "inference_stats", "fail")[0] - counted(before, "inference_stats", "fail")[0] == 1
    assert counted(after, "inference_stats", "success") == counted(before, "inference_stats", "success")
    assert number(after, "inference_count") == number(before, "inference_count")


@both
def test_every_version_has_its_own(server: ServerProcess, ask) -> None:
    (second,) = ask(server, "offset", "2")
    infer(server, "offset", rows=1, columns=1, version="1")

    first, untouched = ask(server, "offset")

    assert (first["version"], untouched["version"]) == ("1", "2")
    assert counted(first, "inference_stats", "success")[0] > 0
    assert untouched == second


@both
def test_without_a_name_every_model_is_listed(server: ServerProcess, ask) -> None:
    names = {stats["name"] for stats in ask(server)}

    assert {"mlp", "offset", "half_plus_two", "identity_bool"} <= names


@both
def test_an_unknown_model_or_version_is_said_in_tritons_words(server: ServerProcess, ask) -> None:
    with pytest.raises(Exception, match="requested model 'absent' is not available") as model:
        ask(server, "absent")
    with pytest.raises(Exception, match="requested model version is not available for model 'mlp'") as version:
        ask(server, "mlp", "7")

    code = "StatusCode.INVALID_ARGUMENT" if ask is over_grpc else "400"
    assert [error.value.status() for error in (model, version)] == [code, code]


def test_the_extension_is_declared(server: ServerProcess) -> None:
    with tritonclient.grpc.InferenceServerClient(server.grpc_address) as client:
        assert "statistics" in client.get_server_metadata().extensions

"""Liveness, readiness and metrics."""

import pytest

from services import testing
from services.engine.device import Device


@pytest.fixture
def draining(rest):
    """The same server while it drains."""
    rest.engine._draining = True
    yield rest
    rest.engine._draining = False


@pytest.fixture
def with_a_broken_model(make_rest, tmp_path):
    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "1" / "model.onnx").write_bytes(b"no model")
    return make_rest(tmp_path)


def test_a_ready_server_is_live_and_ready(rest):
    assert rest.get("/livez").json == {"live": True}
    answer = rest.get("/readyz")
    assert (answer.status, answer.json) == (200, {"ready": True, "not_ready": []})


def test_a_draining_server_is_live_and_not_ready(draining):
    assert draining.get("/livez").status == 200
    answer = draining.get("/readyz")
    assert (answer.status, answer.json["ready"], answer.json["not_ready"]) == (503, False, [])
    assert "draining" in answer.json["reason"]
    assert draining.get("/v2/health/ready").status == 400
    assert draining.get("/v2/health/live").status == 200


def test_models_that_are_not_ready_are_named(with_a_broken_model):
    answer = with_a_broken_model.get("/readyz")
    assert (answer.status, answer.json) == (503, {"ready": False, "not_ready": ["broken"]})
    ready = with_a_broken_model.get("/v2/models/broken/ready")
    assert (ready.status, ready.json) == (400, {"name": "broken", "ready": False})


def test_a_server_that_lost_its_gpu_is_neither_ready_nor_live(make_rest, tmp_path, monkeypatch):
    """Not live: only a restart brings the GPU back."""
    gpu = Device("cuda")
    monkeypatch.setattr("services.engine.backend.device_of", lambda _provider, _index: gpu)
    testing.write_half_plus_two(tmp_path / "half" / "1")
    rest = make_rest(tmp_path)
    assert rest.get("/livez").status == 200
    gpu.judge("CUDA failure 700: an illegal memory access was encountered", 1)
    live, ready = rest.get("/livez"), rest.get("/readyz")
    assert (live.status, live.json) == (503, {"live": False, "reason": "the GPU is lost"})
    assert (ready.status, ready.json) == (503, {"ready": False, "not_ready": ["half"]})


def test_a_failed_load_is_in_the_status(with_a_broken_model):
    row = with_a_broken_model.get("/v1/models/broken").json["model_version_status"][0]
    assert row["version"] == "1"
    assert row["status"]["error_code"] != "OK"
    assert row["status"]["error_message"]


def test_metrics_are_in_the_text_format(rest):
    rest.post("/v1/models/half_plus_two:predict", {"instances": [[1]]})
    answer = rest.get("/metrics")
    assert answer.headers[b"content-type"].startswith(b"text/plain")
    assert b'cornet_request_seconds_count{code="OK",method="predict",model="half_plus_two"' in answer.body


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_verbs_make_sense(rest, path):
    head = rest.get(path, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers[b"content-length"]) > 0
    refused = rest.get(path, method="DELETE")
    assert (refused.status, refused.headers[b"allow"]) == (405, b"GET, HEAD, OPTIONS")

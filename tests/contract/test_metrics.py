"""Both metrics pages of a running server."""

import json
import shutil
import subprocess
import urllib.request

import pytest

from services.launch import ServerProcess


def get(server: ServerProcess, path: str, data: bytes | None = None, **headers: str) -> tuple[str, dict[str, str]]:
    request = urllib.request.Request(server.http_url + path, data, headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode(), {name.lower(): value for name, value in answer.headers.items()}


def predict(server: ServerProcess, **headers: str) -> dict[str, str]:
    body = json.dumps({"instances": [[1.0], [2.0]]}).encode()
    return get(server, "/v1/models/half_plus_two:predict", body, **headers)[1]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)")
def test_our_names_follow_prometheus_s_conventions(server: ServerProcess):
    """Triton's own names have no `_total` and units of their own: they are the exception that is left out."""
    predict(server)
    page = "".join(line for line in get(server, "/metrics")[0].splitlines(keepends=True) if "nv_" not in line)
    check = subprocess.run(
        [str(shutil.which("promtool")), "check", "metrics"], input=page, text=True, capture_output=True, timeout=30
    )
    assert (check.returncode, check.stdout + check.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)")
@pytest.mark.parametrize("path", ["/metrics", "/monitoring/prometheus/metrics"])
def test_prometheus_can_parse_the_page(server: ServerProcess, path: str):
    """Status 1 is a page that cannot be parsed; 3 one whose names it would have chosen otherwise."""
    predict(server)
    check = subprocess.run(
        [str(shutil.which("promtool")), "check", "metrics"],
        input=get(server, path)[0],
        text=True,
        capture_output=True,
        timeout=30,
    )
    assert check.returncode in (0, 3), check.stderr


def test_tensorflow_serving_s_page_counts_what_was_asked(server: ServerProcess):
    predict(server)
    page, headers = get(server, "/monitoring/prometheus/metrics")
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    assert ':tensorflow:serving:request_count{model_name="half_plus_two",status="OK"}' in page


def test_phases_load_time_and_traffic_are_on_our_page(server: ServerProcess):
    predict(server)
    page = get(server, "/metrics")[0]
    labels = 'method="predict",model="half_plus_two",phase="compute",protocol="tfs-rest",version="1"'
    assert f"cornet_request_phase_seconds_count{{{labels}}}" in page
    assert 'cornet_model_warm_up_seconds{model="half_plus_two",version="1"}' in page
    assert 'cornet_received_bytes_total{protocol="tfs-rest"}' in page
    assert 'nv_inference_request_success{model="half_plus_two",version="1"}' in page


def test_a_client_gets_its_request_id_back(server: ServerProcess):
    assert predict(server, **{"x-request-id": "order-17"})["x-request-id"] == "order-17"


def test_a_client_without_an_id_is_given_one(server: ServerProcess):
    assert predict(server)["x-request-id"] != predict(server)["x-request-id"]

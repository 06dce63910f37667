"""The rules and the dashboard under deploy/, against the names a running server exposes and a real Prometheus."""

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.launch import ServerProcess

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
DASHBOARD = json.loads((DEPLOY / "grafana" / "cornet.json").read_text(encoding="utf-8"))
GPU_ONLY = {"cornet_gpu_utilization_ratio", "cornet_gpu_memory_used_bytes", "cornet_gpu_memory_total_bytes"}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)"
)
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed (Debian package prometheus)"
)


def predict(server: ServerProcess) -> None:
    body = json.dumps({"instances": [[1.0], [2.0]]}).encode()
    urllib.request.urlopen(f"{server.http_url}/v1/models/half_plus_two:predict", body, timeout=10).close()


def expressions() -> list[str]:
    """Every query of the dashboard, and the rules as they are."""
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    variables = [str(variable["query"]) for variable in DASHBOARD["templating"]["list"]]
    return [*queries, *variables, RULES.read_text(encoding="utf-8")]


def exposed(server: ServerProcess) -> set[str]:
    """Names of families and of their samples."""
    predict(server)
    with urllib.request.urlopen(f"{server.http_url}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    names = set(re.findall(r"^([a-zA-Z_:][\w:]*)[{ ]", page, re.MULTILINE))
    return names | set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE))


def test_rules_and_dashboard_use_only_names_that_exist(server: ServerProcess):
    recorded = set(re.findall(r"record: (\S+)", RULES.read_text(encoding="utf-8")))
    used = {
        name for text in expressions() for name in re.findall(r"\b(?:model:)?(?:cornet|process)_\w+(?::\w+)?", text)
    }
    assert used
    assert used - exposed(server) - recorded - GPU_ONLY == set()


def test_panels_have_distinct_ids_and_do_not_overlap():
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@needs_promtool
@pytest.mark.parametrize(
    "arguments", [("check", "config", "prometheus.yml"), ("test", "rules", "rules_test.yml")], ids=["config", "rules"]
)
def test_configuration_and_rules_pass_promtool(arguments: tuple[str, ...]):
    done = subprocess.run(
        ["promtool", *arguments], cwd=DEPLOY / "prometheus", text=True, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """A Prometheus on loopback that scrapes one server every second."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector of an expression. Raises HTTPError where it is no PromQL."""
        arguments = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{arguments}", timeout=10) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
            return result

    def wait_for(self, expression: str, timeout_s: float = 30.0) -> list[dict[str, Any]]:
        """The first result that is not empty."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            try:
                if result := self.query(expression):
                    return result
            except OSError:
                pass  # it is not up yet
            time.sleep(0.2)
        raise AssertionError(f"Expected a result of {expression} within {timeout_s} s.")


@pytest.fixture(scope="module")
def prometheus(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    text = text.replace("localhost:8501", urllib.parse.urlsplit(server.http_url).netloc).replace("15s", "1s")
    (folder / "prometheus.yml").write_text(text.replace("rules.yml", str(RULES)), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    log = (folder / "log").open("w", encoding="utf-8")
    options = (f"--web.listen-address={address}", f"--storage.tsdb.path={folder / 'data'}")
    process = subprocess.Popen(["prometheus", f"--config.file={folder / 'prometheus.yml'}", *options], stderr=log)
    try:
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


@needs_prometheus
def test_a_real_prometheus_scrapes_the_server(server: ServerProcess, prometheus: Prometheus):
    predict(server)
    [up] = prometheus.wait_for('up{job="cornet"} == 1')
    assert up["metric"]["instance"] == urllib.parse.urlsplit(server.http_url).netloc
    assert prometheus.wait_for('cornet_request_seconds_count{model="half_plus_two",code="OK"}')
    assert prometheus.wait_for('nv_inference_request_success{model="half_plus_two"} > 0')


@needs_prometheus
def test_every_query_of_the_dashboard_is_understood(prometheus: Prometheus):
    prometheus.wait_for('up{job="cornet"} == 1')
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            prometheus.query(target["expr"].replace("$__rate_interval", "1m").replace("$model", ".*"))


@needs_prometheus
def test_the_recorded_series_have_values(server: ServerProcess, prometheus: Prometheus):
    predict(server)
    assert prometheus.wait_for('model:cornet_requests:rate5m{model="half_plus_two"}')

"""`cornet loadtest` against a real server, over every protocol."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from services.launch import ServerProcess
from services.loadtest.protocols import PROTOCOLS
from services.loadtest.report import write_report

BROKEN = 3


def loadtest(server: ServerProcess, protocol: str, model: str, *options: str) -> subprocess.CompletedProcess[str]:
    address = server.grpc_address if PROTOCOLS[protocol].is_grpc else server.http_url.removeprefix("http://")
    target = (
        "--protocol",
        protocol,
        "--model",
        model,
        "--address",
        address,
        "--metrics-url",
        f"{server.http_url}/metrics",
    )
    command = (sys.executable, "-m", "services.cli", "loadtest", *target, "--warm-up", "0.1", *options)
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_every_protocol_is_measured(server: ServerProcess, protocol: str, tmp_path: Path) -> None:
    model = "regressor" if protocol == "typed" else "mlp"
    path = tmp_path / "result.json"

    run = loadtest(
        server, protocol, model, "--concurrency", "4", "--duration", "0.5", "--rows", "2", "--json", str(path)
    )

    assert run.returncode == 0, run.stderr
    result = json.loads(path.read_text())
    (step,) = result["steps"]
    assert step["ok"] > 10
    assert step["errors"] == {}
    assert step["rows_per_s"] == pytest.approx(2 * step["ok_per_s"], rel=0.01)
    assert step["server"]["phases"]["compute"]["mean_ms"] < step["latency_ms"]["max"]
    assert result["target"]["answer_shapes"] == (
        {"predictions": [2]} if protocol == "typed" else {"prediction": [2, 1]}
    )


def test_an_open_loop_offers_its_rate_and_a_broken_threshold_is_the_exit_status(
    server: ServerProcess, tmp_path: Path
) -> None:
    path = tmp_path / "result.json"
    load = ("--rate", "50", "--arrivals", "constant", "--duration", "1")

    run = loadtest(server, "oip-rest", "mlp", *load, "--min-rps", "1000", "--json", str(path))

    assert run.returncode == BROKEN, run.stderr
    result = json.loads(path.read_text())
    assert result["steps"][0]["requests"] == 50
    assert "below 1000" in result["steps"][0]["broken"][0]
    write_report(result, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 4
    assert "src=" not in page
    assert "below 1000" in page


def test_an_unknown_model_is_said_in_one_line(server: ServerProcess) -> None:
    run = loadtest(server, "tfs-grpc", "absent")

    assert run.returncode == 1
    assert "Servable not found" in run.stderr
    assert "Traceback" not in run.stderr

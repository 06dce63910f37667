"""`cornet loadtest` against a real server, over every protocol."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from services import testing
from services.launch import ServerProcess
from services.loadtest.protocols import PROTOCOLS
from services.loadtest.report import write_report

BROKEN = 3
INTERRUPTED = 130


def loadtest(server: ServerProcess, protocol: str, model: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(server, protocol, model, *options), capture_output=True, text=True, timeout=60)


def started(server: ServerProcess, *options: str) -> subprocess.Popen[str]:
    """A test over tfs-grpc that runs."""
    return subprocess.Popen(
        command(server, "tfs-grpc", "mlp", "--warm-up", "0", *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until_asked(server: ServerProcess) -> None:
    """Wait until the server has answered some predictions more: the step runs."""

    def answered() -> int:
        with urllib.request.urlopen(f"{server.http_url}/v2/models/mlp/stats", timeout=10) as answer:
            count: int = json.load(answer)["model_stats"][0]["inference_stats"]["success"]["count"]
            return count

    enough, given_up_at = answered() + 20, time.monotonic() + 30
    while answered() < enough:
        assert time.monotonic() < given_up_at
        time.sleep(0.05)


def command(server: ServerProcess, protocol: str, model: str, *options: str) -> tuple[str, ...]:
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
    return (sys.executable, "-m", "services.cli", "loadtest", *target, "--warm-up", "0.1", *options)


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


def test_an_interrupted_test_writes_what_it_measured(server: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with started(server, "--concurrency", "2,1", "--duration", "30", "--json", str(path)) as run:
        until_asked(server)
        run.send_signal(signal.SIGINT)
        _, error = run.communicate(timeout=30)

    assert run.returncode == INTERRUPTED, error
    result = json.loads(path.read_text())
    (step,) = result["steps"]
    assert (result["interrupted"], result["passed"]) == (True, False)
    assert step["ok"] > 0
    assert step["errors"] == {}
    assert step["seconds"] < 30


def test_a_server_that_dies_in_the_middle_is_lost_connections_and_no_flood_of_them(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    testing.write_mlp(tmp_path / "models" / "mlp" / "1")
    with ServerProcess(tmp_path / "models") as dying:
        options = ("--concurrency", "2", "--duration", "4", "--max-error-rate", "0", "--json", str(path))
        with started(dying, *options) as run:
            until_asked(dying)
            os.kill(dying.pid, signal.SIGKILL)
            _, error = run.communicate(timeout=30)

    assert run.returncode == BROKEN, error
    (step,) = json.loads(path.read_text())["steps"]
    assert step["ok"] > 0
    assert set(step["errors"]) <= {"CONNECTION", "UNAVAILABLE"}  # the latter of what was on its way
    assert 0 < sum(step["errors"].values()) < 200


def test_a_step_without_a_request_does_not_pass(server: ServerProcess) -> None:
    run = loadtest(server, "tfs-grpc", "mlp", "--duration", "0.5", "--rate", "0.001")

    assert run.returncode == BROKEN, run.stderr
    assert "no request was answered" in run.stdout


def test_a_place_that_cannot_be_written_is_refused_before_the_test(server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    run = loadtest(server, "tfs-grpc", "mlp", "--duration", "30", "--json", str(tmp_path / "file" / "result.json"))

    assert run.returncode == 1
    assert "Expected to be able to write the result" in run.stderr
    assert "Traceback" not in run.stderr


def test_an_unknown_model_is_said_in_one_line(server: ServerProcess) -> None:
    run = loadtest(server, "tfs-grpc", "absent")

    assert run.returncode == 1
    assert "Servable not found" in run.stderr
    assert "Traceback" not in run.stderr

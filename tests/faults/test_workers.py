"""`cornet serve --workers 2` as a user meets it: shared ports, one page of metrics, deaths, drains and bad starts."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton

from services import testing
from services.launch import ServerProcess

T = TypeVar("T")

_COUNT = (
    'cornet_request_seconds_count{code="OK",method="predict",model="half_plus_two",protocol="tfs-rest",version="1"}'
)
_ANSWER = {"predictions": [[3.0]]}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    testing.write_half_plus_two(root / "half_plus_two" / "1")
    testing.write_offset(root / "offset" / "1", 1.0)
    return root


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[ServerProcess]:
    """Two workers. What a test does to them is undone when it ends."""
    with ServerProcess(repository, "--workers", "2", environment={"CORNET_POLL_INTERVAL_S": "0.2"}) as running:
        yield running


def workers(server: ServerProcess) -> list[int]:
    """Process ids of the workers."""
    text = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text(encoding="ascii")
    return [int(pid) for pid in text.split()]


def until(what: str, ask: Callable[[], T | None], timeout_s: float = 60.0) -> T:
    """The first answer that is something."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if answer := ask():
            return answer
        time.sleep(0.02)
    raise AssertionError(f"Expected {what} within {timeout_s} s.")


def process_of(answer: httpx.Response) -> str:
    """What the ids that a process gives to requests have in common."""
    return answer.headers["x-request-id"].partition("-")[0]


def predict(client: httpx.Client, model: str = "half_plus_two") -> httpx.Response:
    return client.post(f"/v1/models/{model}:predict", json={"instances": [[2.0]]}).raise_for_status()


def connections(server: ServerProcess, least_each: int = 1) -> dict[str, list[httpx.Client]]:
    """Open connections until both workers have so many, by worker. The system spreads them by their port."""
    found: dict[str, list[httpx.Client]] = {}
    for _ in range(200):
        client = httpx.Client(base_url=server.http_url, timeout=20)
        found.setdefault(process_of(predict(client)), []).append(client)
        if len(found) == 2 and min(map(len, found.values())) >= least_each:
            return found
    raise AssertionError(f"Expected connections to two workers. Received: {len(found)}.")


def close(found: dict[str, list[httpx.Client]]) -> None:
    for clients in found.values():
        for client in clients:
            client.close()


def page(server: ServerProcess, client: httpx.Client | None = None) -> dict[str, float]:
    text = client.get("/metrics").text if client else httpx.get(f"{server.http_url}/metrics", timeout=20).text
    samples = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in samples}


def test_both_workers_answer_on_the_http_port_with_one_page_of_metrics(server: ServerProcess) -> None:
    found = connections(server)
    before = page(server)[_COUNT]
    for clients in found.values():
        assert predict(clients[0]).json() == _ANSWER

    pages = [page(server, clients[0]) for clients in found.values()]

    assert [samples[_COUNT] - before for samples in pages] == [2, 2]
    for samples in pages:
        assert samples["cornet_workers"] == 2
        for worker in ("0", "1"):
            assert samples[f'cornet_worker_up{{worker="{worker}"}}'] == 1
            assert samples[f'process_resident_memory_bytes{{worker="{worker}"}}'] > 0
    close(found)


def test_both_workers_answer_on_the_grpc_port(server: ServerProcess) -> None:
    seen: set[str] = set()

    def ask() -> bool:
        with grpc.insecure_channel(server.grpc_address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
            method = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            _, call = method.with_call(b"", timeout=20)
            ids = dict(call.trailing_metadata())
            seen.add(str(ids["x-request-id"]).partition("-")[0])
        return len(seen) == 2

    until("answers of two workers", ask)
    with triton.InferenceServerClient(server.grpc_address) as client:
        tensor = triton.InferInput("x", [1, 1], "FP32")
        tensor.set_data_from_numpy(np.array([[2.0]], np.float32))
        assert client.infer("half_plus_two", [tensor]).as_numpy("y").tolist() == [[3.0]]


def test_statistics_are_of_all_workers_whichever_is_asked(server: ServerProcess) -> None:
    found = connections(server)
    counted = []
    with triton.InferenceServerClient(server.grpc_address) as client:
        for clients in found.values():
            predict(clients[0])
            predict(clients[0])
            over_http = clients[0].get("/v2/models/half_plus_two/stats").raise_for_status().json()["model_stats"][0]
            over_grpc = client.get_inference_statistics("half_plus_two").model_stats[0]
            counted.append((over_http["inference_stats"]["success"]["count"], over_grpc.inference_stats.success.count))
    close(found)

    (first, again), (second, and_again) = counted
    assert (again, second, and_again) == (first, first + 2, first + 2)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)")
def test_the_merged_page_follows_prometheus_s_conventions(server: ServerProcess) -> None:
    text = httpx.get(f"{server.http_url}/metrics", timeout=20).text
    ours = "".join(line for line in text.splitlines(keepends=True) if "nv_" not in line)
    check = subprocess.run(
        ["promtool", "check", "metrics"], input=ours, text=True, capture_output=True, timeout=30, check=False
    )
    assert (check.returncode, check.stdout + check.stderr) == (0, "")


def test_the_typed_endpoints_work_in_each_worker(server: ServerProcess) -> None:
    found = connections(server)
    for clients in found.values():
        assert clients[0].get("/docs.json").raise_for_status().json()["openapi"]
    close(found)


def test_log_lines_carry_the_worker_s_number(server: ServerProcess) -> None:
    numbers = {line["event"]: set[object]() for line in server.log}
    for line in server.log:
        numbers[line["event"]].add(line.get("worker"))

    assert numbers["version available"] == {0, 1}
    assert numbers["ready"] == {None}


def test_a_new_version_is_served_by_all_workers_and_each_answer_says_its_version_truly(
    server: ServerProcess, repository: Path, tmp_path: Path
) -> None:
    found = connections(server)
    clients = [clients[0] for clients in found.values()]

    def versions() -> set[int]:
        seen = set()
        for client in clients:
            inputs = [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [10.0]}]
            answer = client.post("/v2/models/offset/infer", json={"inputs": inputs}).raise_for_status().json()
            version = int(answer["model_version"])
            assert answer["outputs"][0]["data"] == [10.0 + version]
            seen.add(version)
        return seen

    assert versions() == {1}
    testing.write_offset(tmp_path / "2", 2.0)
    (tmp_path / "2").rename(repository / "offset" / "2")
    until("version 2 of both", lambda: versions() == {2})
    close(found)


def test_a_killed_worker_costs_no_request_of_the_other_and_no_count(server: ServerProcess) -> None:
    found = connections(server, least_each=2)
    restarts = _restarts(page(server))
    over, failed, sent = threading.Event(), set[str](), dict.fromkeys(found, 0)

    def load(process: str, client: httpx.Client) -> None:
        try:
            while not over.is_set():
                assert predict(client).json() == _ANSWER
                sent[process] += 1
        except httpx.TransportError:
            failed.add(process)

    counts: list[float] = []

    def scrape() -> bool:
        try:
            samples = page(server)
        except httpx.TransportError:
            return False  # this connection had waited for the worker that died
        counts.append(samples[_COUNT])
        up = [samples[f'cornet_worker_up{{worker="{worker}"}}'] for worker in (0, 1)]
        return _restarts(samples) == restarts + 1 and up == [1, 1]

    with ThreadPoolExecutor(8) as pool:
        loads = [pool.submit(load, process, client) for process, clients in found.items() for client in clients[:2]]
        until("requests on each connection", lambda: min(sent.values()) > 20)
        scrape()
        os.kill(workers(server)[0], signal.SIGKILL)
        until("the worker to be started again", scrape)
        over.set()
        for running in loads:
            running.result(20)
    scrape()

    assert counts == sorted(counts)
    [survivor] = until(
        "its successor's connections", lambda: set(found) != (now := {*_processes(server)}) and set(found) & now
    )
    assert survivor not in failed  # the killed one's is not in it either where its clients were between two requests
    ended = [line for line in server.log if line["event"] == "worker ended"]
    assert ended[-1]["how"] == "SIGKILL"
    close(found)


def test_a_worker_that_hangs_is_said_to_and_keeps_its_counts(server: ServerProcess) -> None:
    found = connections(server)
    clients = [clients[0] for clients in found.values()]
    before = page(server, clients[0])[_COUNT]
    hung = workers(server)[0]
    os.kill(hung, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(2) as pool:
            scrapes = [pool.submit(page, server, client) for client in clients]
            samples = until("a page", lambda: next((s.result() for s in scrapes if s.done()), None))
            os.kill(hung, signal.SIGCONT)
    finally:
        os.kill(hung, signal.SIGCONT)
        close(found)

    assert samples[_COUNT] >= before
    assert sorted(samples[f'cornet_worker_up{{worker="{worker}"}}'] for worker in (0, 1)) == [0, 1]


def _restarts(samples: dict[str, float]) -> float:
    return sum(value for name, value in samples.items() if name.startswith("cornet_worker_restarts_total"))


def _processes(server: ServerProcess) -> list[str]:
    found = connections(server)
    close(found)
    return list(found)


def test_sigterm_drains_both_workers_without_a_failed_request(tmp_path: Path) -> None:
    testing.write_half_plus_two(tmp_path / "half_plus_two" / "1")
    models = tmp_path / "models.toml"
    models.write_text(
        f'repository = "{tmp_path}"\n[models.half_plus_two]\n[models.patient]\npath = "{tmp_path}/half_plus_two"\n'
        "[models.patient.batching]\nmax_queue_delay_us = 5_000_000\n"
    )
    with ServerProcess(tmp_path, "--models", str(models), "--workers", "2", "--no-typed-endpoints") as server:
        found = connections(server)
        with ThreadPoolExecutor(2) as pool:
            answers = [
                pool.submit(clients[0].post, "/v1/models/patient:predict", json={"inputs": [[1.0]]})
                for clients in found.values()
            ]
            with httpx.Client(base_url=server.http_url) as other:
                until("both to run", lambda: _in_flight(page(server, other)) >= 2)
            status = server.stop()
        outputs = [answer.result().raise_for_status().json()["outputs"] for answer in answers]
        close(found)

    assert status == 0
    assert outputs == [[[2.5]], [[2.5]]]
    assert [line["event"] for line in server.log if line.get("logger") == "cornet.supervisor"][-2:] == [
        "draining",
        "stopped",
    ]


def _in_flight(samples: dict[str, float]) -> float:
    return samples.get('cornet_requests_in_flight{protocol="tfs-rest"}', 0)


def test_workers_end_with_a_supervisor_that_is_killed_and_the_ports_are_free(tmp_path: Path) -> None:
    """A TensorFlow Serving command line with CORNET_WORKERS: the same supervisor."""
    testing.write_half_plus_two(tmp_path / "half_plus_two" / "1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = ["--port=0", f"--rest_api_port={port}", "--model_name=half", f"--model_base_path={tmp_path}/half_plus_two"]
    environment = {"CORNET_WORKERS": "2", "CORNET_TYPED_ENDPOINTS": "false"}
    with ServerProcess(tmp_path, command=["-m", "services.model_server", *flags], environment=environment) as server:
        answer = httpx.post(f"{server.http_url}/v1/models/half:predict", json={"instances": [[2.0]]}, timeout=20)
        pids = workers(server)

        assert server.stop(number=signal.SIGKILL) == -signal.SIGKILL
        until("no worker to be left", lambda: not any(map(_runs, pids)))

    assert answer.json() == _ANSWER
    assert len(pids) == 2
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


def test_a_second_signal_ends_all_at_once(tmp_path: Path) -> None:
    testing.write_half_plus_two(tmp_path / "half_plus_two" / "1")
    options = ("--workers", "2", "--no-typed-endpoints")
    with ServerProcess(tmp_path, *options, environment={"CORNET_DRAIN_DELAY_S": "60"}) as server:
        pids = workers(server)
        os.kill(server.pid, signal.SIGTERM)
        until("the drain", lambda: any(line["event"] == "draining" for line in server.log))

        assert server.stop() == -signal.SIGTERM
        until("no worker to be left", lambda: not any(map(_runs, pids)))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def start(
    repository: Path, *options: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Have a server start that cannot."""
    command = [sys.executable, "-m", "services.cli", "serve", "--repository", str(repository), *options]
    given = {**os.environ, "CORNET_GRPC_PORT": "0", "CORNET_HTTP_PORT": "0", **(environment or {})}
    return subprocess.run(command, env=given, text=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("option", ["--grpc-port", "--http-port"])
def test_a_taken_port_ends_the_start_with_one_clear_line(tmp_path: Path, option: str) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = str(holder.getsockname()[1])
        done = start(tmp_path, "--workers", "2", option, taken)

    assert done.returncode == 1
    assert [taken in line for line in done.stderr.splitlines()] == [True]


def test_what_no_worker_can_start_with_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = start(tmp_path, "--workers", "2", "--request-log", str(tmp_path / "file"))

    errors = [line for line in done.stderr.splitlines() if "error" in line]
    assert done.returncode == 1
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("workers", ["0", "-1"])
def test_a_number_of_workers_below_one_is_refused(tmp_path: Path, workers: str) -> None:
    done = start(tmp_path, "--workers", workers)

    assert done.returncode == 1
    assert f"workers: expected int at least 1. Received: '{workers}'." in done.stderr

"""Batch jobs on a real Ray of two actors: same output as on one machine, also where a worker or the driver is killed."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest

from services.batch import ErrorRateExceeded, run
from services.testing import write_offset

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="finds Ray's processes in /proc"),
    # Ray's own code opens files and sockets that it leaves to the garbage collector, and calls what Python deprecates.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning:ray"),
]

SHARDS, SHARD_ROWS = 30, 1000
RECORDS = SHARDS * SHARD_ROWS
BAD = {17, 5_000, RECORDS - 1}

START_RAY = """
import ray, sys
context = ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, object_store_memory=100 * 2**20, logging_level="ERROR")
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
ray.shutdown()
"""


class Ray(NamedTuple):
    """Where it is, and the process that all of its processes descend from."""

    address: str
    pid: int


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A model, records (three bad ones among them), what the local engine makes of them, and an environment for Ray."""
    # Not pytest's own: the paths of Ray's sockets must not exceed 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    write_offset(folder / "models/offset/1", 0.5)
    with (folder / "records.jsonl").open("w") as file:
        for number in range(RECORDS):
            file.write(json.dumps({"x": ["bad"] if number in BAD else [number]}) + "\n")
    environment = {
        "RAY_TMPDIR": str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # bind to the loopback alone
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # Ray's own 15 starves its workers beside whatever else the machine does
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        run_job(folder, "local", engine="local")
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(place: Path) -> Iterator[Ray]:
    """A Ray that is not the job's, with two CPUs and a GPU that exists in its books alone."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", START_RAY], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "Ray has not started"
        yield Ray(address, process.pid)
        process.communicate("stop", timeout=60)
    wait_until(lambda: not users_of(place))


def test_a_stopped_driver_stops_its_own_quiet_ray_and_says_so_by_its_exit_code(place: Path) -> None:
    """Ray handles SIGTERM itself, and reports its use to its makers, unless it is kept from it."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_USAGE_STATS_ENABLED"}
    with subprocess.Popen(command(place, "stopped"), stderr=subprocess.PIPE, text=True, env=environment) as driver:
        wait_until(lambda: any((place / "stopped/rows").glob("part-*")), seconds=120)
        heads = {pid: title for pid, title in below(driver.pid).items() if "dashboard.py" in title}
        environments = [environment_of(pid) for pid in heads]
        driver.terminate()
        _, errors = driver.communicate(timeout=60)

    assert driver.returncode == 128 + signal.SIGTERM
    assert "the same command continues" in errors
    assert heads, "the process that would report"
    assert all("RAY_USAGE_STATS_ENABLED=0" in environment for environment in environments)
    assert all("--disable-frontend" in title for title in heads.values())
    wait_until(lambda: not users_of(place))


def test_a_killed_worker_costs_no_row_and_doubles_none(place: Path, cluster: Ray) -> None:
    killed: list[int] = []

    def kill_one(done: int, _errors: int, _total: int) -> None:
        if done and not killed:
            killed.append(actors(cluster.pid)[0])
            os.kill(killed[0], signal.SIGKILL)

    summary = run_job(place, "killed-worker", address=cluster.address, progress=kill_one)

    assert killed
    assert (summary.records, summary.rows, summary.errors) == (RECORDS, RECORDS - len(BAD), len(BAD))
    assert_same_output(place, "killed-worker")


def test_a_job_that_stops_leaves_no_actor_on_a_ray_that_is_not_its_own(place: Path, cluster: Ray) -> None:
    with pytest.raises(ErrorRateExceeded):
        run_job(place, "bad", address=cluster.address, max_error_rate=0.0)

    wait_until(lambda: not actors(cluster.pid))
    assert users_of(place)


def test_a_killed_driver_is_continued_by_the_same_command(place: Path, cluster: Ray) -> None:
    with subprocess.Popen(
        [*command(place, "killed-driver"), "--address", cluster.address], stderr=subprocess.DEVNULL
    ) as driver:
        wait_until(lambda: any((place / "killed-driver/rows").glob("part-*")), seconds=90)
        driver.kill()

    summary = run_job(place, "killed-driver", address=cluster.address, num_gpus_per_actor=0.5)

    assert 0 < summary.computed < RECORDS
    assert_same_output(place, "killed-driver")


def run_job(place: Path, output: str, **options: Any) -> Any:
    return run(
        "offset",
        place / "records.jsonl",
        place / output,
        repository=place / "models",
        shard_rows=SHARD_ROWS,
        **{"engine": "ray", **options},
    )


def command(place: Path, output: str) -> list[str]:
    """The job as a command."""
    arguments = ["--input", place / "records.jsonl", "--output", place / output, "--repository", place / "models"]
    options = ["--engine", "ray", "--shard-rows", str(SHARD_ROWS)]
    return [sys.executable, "-m", "services.cli", "batch", "offset", *map(str, arguments), *options]


def assert_same_output(place: Path, output: str) -> None:
    for name in ("rows", "errors.parquet"):
        got, want = (sorted(pq.read_table(place / folder / name).to_pylist(), key=str) for folder in (output, "local"))
        assert got == want


def actors(root: int) -> list[int]:
    """Processes that hold a model, below another one."""
    return [pid for pid, title in below(root).items() if title.startswith("ray::MapWorker")]


def below(root: int) -> dict[int, str]:
    """Processes that another one has started, and those that they have, with their command lines."""
    parents, titles = {}, {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            titles[int(process.name)] = (process / "cmdline").read_text()
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue  # it has ended meanwhile

    def is_below(pid: int) -> bool:
        while pid in parents and pid != root:
            pid = parents[pid]
        return pid == root

    return {pid: title for pid, title in titles.items() if pid != root and is_below(pid)}


def environment_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


def users_of(folder: Path) -> list[int]:
    """Processes that were started on a Ray folder, or hold a file of it open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = [str(link.readlink()) for link in (process / "fd").iterdir()]
            if any(str(folder) in text for text in [(process / "cmdline").read_text(), *links]):
                found.append(int(process.name))
        except OSError:
            continue  # it has ended meanwhile
    return [pid for pid in found if pid != os.getpid()]


def wait_until(condition: Callable[[], bool], *, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition was not met in time"
        time.sleep(0.1)  # a look through /proc costs the CPU that the workers need

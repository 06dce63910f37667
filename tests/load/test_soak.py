"""A soak: a server under load neither grows nor leaks. Seconds by default; CORNET_SOAK_SECONDS=600 for ten minutes."""

import os
from dataclasses import dataclass
from pathlib import Path

from services.launch import ServerProcess
from services.loadtest.plan import Bounds, Load, Target
from services.loadtest.requests import Model
from services.loadtest.session import run_steps
from services.loadtest.thresholds import Thresholds

MOST_GROWTH_BYTES = 24 * 1024 * 1024
SECONDS = min(float(os.environ.get("CORNET_SOAK_SECONDS", "3")), 1800.0)


@dataclass(frozen=True)
class Usage:
    memory_bytes: int
    files: int
    threads: int


def usage(pid: int) -> Usage:
    process = Path(f"/proc/{pid}")
    pages = int((process / "statm").read_text().split()[1])
    files, threads = (len(list((process / name).iterdir())) for name in ("fd", "task"))
    return Usage(pages * os.sysconf("SC_PAGE_SIZE"), files, threads)


def load(server: ServerProcess, protocol: str, address: str, seconds: float) -> None:
    bounds = Bounds(seconds=seconds, warmup_s=0.0)
    result = run_steps(
        Target(protocol, address, Model("mlp")), bounds, [Load("closed", 8)], Thresholds(max_error_rate=0.0)
    )
    assert result["passed"], result["steps"][0]["errors"]


def test_memory_files_and_threads_stay_where_they_are(server: ServerProcess) -> None:
    http = server.http_url.removeprefix("http://")

    def both(seconds: float) -> None:
        load(server, "tfs-grpc", server.grpc_address, seconds)
        load(server, "oip-rest-binary", http, seconds)

    both(1.0)
    before = usage(server.pid)
    both(SECONDS / 2)
    after = usage(server.pid)

    assert after.memory_bytes - before.memory_bytes < MOST_GROWTH_BYTES
    assert after.files <= before.files + 8  # connections of the last run that are still being closed
    assert after.threads <= before.threads + 2

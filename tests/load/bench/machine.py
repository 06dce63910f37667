"""The machine and the versions a run was made with."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.load.bench.processes import Slot, run
from tests.load.bench.servers import PROJECT, Place

_STILLNESS = Path(__file__).parent / "clients" / "stillness.py"
_WATCH_S = 2
_PATIENCE_S = 20

_PACKAGES = (
    "onnxruntime",
    "grpcio",
    "uvloop",
    "uvicorn",
    "httptools",
    "orjson",
    "numpy",
    "bentoml",
    "hpack",
    "protobuf",
)
_PEERS = {
    "triton": ("nvidia_pytriton", "onnxruntime"),
    "mlserver": ("mlserver", "onnxruntime", "grpcio"),
    "kserve": ("kserve", "onnxruntime", "grpcio"),
    "bento": ("bentoml", "onnxruntime"),
    "perf": ("tritonclient",),
}


def describe_machine() -> dict[str, object]:
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    memory = int(next(line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line))
    return {
        "cpu": next(
            (line.partition(":")[2].strip() for line in cpus if line.startswith("model name")), platform.machine()
        ),
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e6, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_at_start": os.getloadavg()[0],
    }


def watch_cores(cores: Iterable[int], nice: int) -> dict[int, Mapping[str, float]]:
    """How often and how long a process is kept from each core, though it wants nothing else: see `clients/stillness.py`."""
    command = [sys.executable, str(_STILLNESS), str(_WATCH_S)]
    return {core: json.loads(run(command, Slot((core,), nice), _WATCH_S + _PATIENCE_S)) for core in cores}


def describe_pauses(stillness: Mapping[int, Mapping[str, float]]) -> str:
    """In a line what `watch_cores` saw."""
    return "; ".join(
        f"core {core} was away for more than 0.5 ms {seen['pauses_per_second']:.0f} times a second, "
        f"at most {seen['longest_ms']:.1f} ms, {seen['share']:.1%} of the time"
        for core, seen in stillness.items()
    )


def describe_versions(place: Place) -> dict[str, object]:
    """Of cornet (its commit), of what it stands on, of the peers and of the generators."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=PROJECT, capture_output=True, text=True, check=False
    ).stdout.strip()
    versions: dict[str, object] = {"cornet": commit or "no checkout"}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    for peer, packages in _PEERS.items():
        found = {}
        for site in (place.peers / peer / "lib").glob("python3.*/site-packages"):
            for package in packages:
                for info in site.glob(f"{package}-*.dist-info"):
                    found[package] = info.name.removesuffix(".dist-info").partition("-")[2]
        if found:
            versions[f"{peer} environment"] = found
    for program in ("wrk", "h2load"):
        try:
            said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            continue
        versions[program] = (said.stdout or said.stderr).splitlines()[0].split(" Copyright")[0].strip()
    return versions

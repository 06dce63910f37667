"""`make bench-peers`: an environment of its own for each server that cornet is compared with, and perf_analyzer.

    python -m tests.load.bench.install_peers [folder]

Versions are pinned. What cannot be installed on a machine is named and left out; the benchmark leaves it out as well.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.load.bench.servers import PROJECT

PYTHON = "3.11"
"""Triton's wheel has libraries for this Python, and all the others support it."""

PEERS: dict[str, Sequence[str]] = {
    "triton": ("nvidia-pytriton==0.7.0", "onnxruntime==1.32.0"),
    "mlserver": ("mlserver==1.7.1", "onnxruntime==1.32.0"),
    "kserve": ("kserve==0.21.0", "onnxruntime==1.32.0"),
    "bento": ("bentoml==1.4.39", "onnxruntime==1.32.0", "uvloop==0.23.0", "httptools==0.9.0"),
    "perf": ("tritonclient==2.40.0",),
}
_WITHOUT_DEPENDENCIES = frozenset({"perf"})  # it is wanted for the binary it carries
_PERF_LIBRARIES = {"libb64-*.so.0d": "libb64.so.0d", "libcudart-*.so.12*": "libcudart.so.12"}


def main(arguments: Sequence[str]) -> int:
    """Exit status 1 where nothing could be installed."""
    folder = Path(arguments[0] if arguments else PROJECT / ".bench-peers").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    installed = [name for name, packages in PEERS.items() if _install(folder / name, name, packages)]
    if "perf" in installed:
        _link_libraries(folder)
    sys.stdout.write(f"{folder}: {', '.join(installed) or 'nothing'}\n")
    return 0 if installed else 1


def _install(folder: Path, name: str, packages: Sequence[str]) -> bool:
    mark = folder / ".installed"
    wanted = "\n".join(packages)
    if mark.exists() and mark.read_text() == wanted:
        return True
    options = ["--no-deps"] if name in _WITHOUT_DEPENDENCIES else []
    for command in (
        [_uv(), "venv", "--quiet", "--clear", "--python", PYTHON, str(folder)],
        [_uv(), "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), *options, *packages],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.stdout.write(f"{name} is left out: {done.stderr.strip()[-500:]}\n")
            shutil.rmtree(folder, ignore_errors=True)
            return False
    mark.write_text(wanted)
    sys.stdout.write(f"{name}: {', '.join(packages)}\n")
    return True


def _link_libraries(folder: Path) -> None:
    """perf_analyzer wants two libraries that Triton's wheel carries under names of its own."""
    target = folder / "perf" / "lib"
    for pattern, name in _PERF_LIBRARIES.items():
        found = next((folder / "triton").glob(f"lib/python3.*/site-packages/nvidia_pytriton.libs/{pattern}"), None)
        if found is None:
            sys.stdout.write(
                f"perf_analyzer needs {name} (Debian: libb64-0d; pip: nvidia-cuda-runtime-cu12) in {target}\n"
            )
        elif not (target / name).exists():
            (target / name).symlink_to(os.path.relpath(found, target))


def _uv() -> str:
    own = Path(sys.executable).with_name("uv")
    return str(own) if own.exists() else "uv"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

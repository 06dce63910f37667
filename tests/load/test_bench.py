"""One cell of the benchmark, as `make bench` measures it."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_run_measures_checks_and_writes_what_it_was_asked_for(tmp_path: Path) -> None:
    core = str(min(os.sched_getaffinity(0)))
    where = ("--folder", str(tmp_path), "--peers", str(tmp_path / "none"), "--server-core", core, "--client-core", core)
    what = (
        "--steps",
        "cells",
        "--rounds",
        "1",
        "--seconds",
        "1",
        "--only",
        "model=mlp",
        "generator=varied",
        "server=cornet,triton",
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.load.bench", *where, *what], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "triton is left out: triton is not installed: make bench-peers" in done.stdout
    document = json.loads(next(tmp_path.glob("bench-*.json")).read_text())
    measured = {cell["server"]: cell for cell in document["cells"]}
    assert measured["cornet"]["per_second"] > 0
    assert measured["cornet"]["errors"] == 0
    assert measured["cornet"]["cpu_us"] > 0
    assert "not installed" in measured["triton"]["failed"]
    assert document["machine"]["cores"]
    assert document["versions"]["onnxruntime"]
